"""From the trees of a record to what is known of them, each number with its interval."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from arpo_verl.measure.bootstrap import FEWEST_PROMPTS, Interval, Means, Resampled, Values
from arpo_verl.measure.designs import (
    BASELINES,
    PRESET_LEAVES,
    Design,
    PresetCost,
    design_of,
    leaves_to_try,
    preset_baselines,
    worst_cost,
)
from arpo_verl.measure.entropies import Entropies, entropies_of
from arpo_verl.measure.law import optimal_leaves, optimal_leaves_of_rewards, split_at
from arpo_verl.measure.sums import FEWEST_FORKS, PromptSums, prompt_sums
from arpo_verl.measure.trees import trees_of
from arpo_verl.record import RecordedPrompt

TOKENS = "tokens"
"""The unit that designs are chosen by."""


class NotMeasurable(ValueError):
    """The trees say nothing about branching; the message says why and what to do."""


@dataclass(frozen=True)
class ForkDepth:
    """What is known of the fork points after so many results, and of K there. A number is None if it is not known."""

    depth: int
    reach: Interval | None
    """Share of roots that get so far."""
    between: Interval | None
    """V1, variance of rewards between prefixes; what chance brings below 0 is kept."""
    within: Interval | None
    """W, variance within a prefix, 0 of a root that does not get so far."""
    correlation: Interval | None
    """ρ = V1 / (V1 + W), likewise."""
    cost_ratio: dict[str, Interval]
    """t1 / t2 by unit; a unit of which nothing comes after is absent."""
    optimal_leaves: Interval | None
    """K* of the gradient with the group's baseline."""
    optimal_leaves_of_rewards: Interval | None
    """K* of rewards, as the metric `tree/optimal_forks`."""


@dataclass(frozen=True)
class Measurement:
    """What the trees of a record say about branching."""

    prompts: int
    leaves: int
    """M."""
    forks: int
    reward_variance: Interval | None
    """T, of the leaves of a prompt."""
    depths: list[ForkDepth]
    lift_of_entropy: Interval | None
    """Mean variance below the half of forks with the higher change of entropy, over that below all."""
    lift_of_late: Interval | None
    """The same of forks after the second result and later, over those after the first."""
    silent: Interval | None
    """Share of sampled tokens whose turn has no sibling."""
    designs: list[Design]
    """All that were compared."""
    presets: list[PresetCost]
    best: Design | None
    """The design of the least predicted cost in sampled tokens."""
    worst_of_best: Interval | None
    """Its cost if suffixes' gradients differ most between prefixes."""
    entropies: Entropies | None
    notes: list[str] = field(default_factory=list)
    """What is not known, and why."""


def measure(prompts: Sequence[RecordedPrompt], seed: int = 0) -> Measurement:
    """Return what the trees of prompts say.

    Args:
        prompts: of one step or several of the same policy.
        seed: of the bootstrap.

    Raises:
        NotMeasurable: there are too few prompts, no tool was called, all rewards of each prompt are equal, each has
            one leaf, or nothing has forked.
    """
    entropies = entropies_of(prompts, seed)
    found = prompt_sums(trees_of(prompts))
    require_something(found, any(segment.calls for prompt in prompts for segment in prompt.segments))
    return measured(found, entropies, seed)


def require_something(found: PromptSums, has_calls: bool) -> None:
    """Check that estimates are possible.

    Args:
        found: of the prompts.
        has_calls: a tool was called.

    Raises:
        NotMeasurable: they are not.
    """
    if found.prompts < FEWEST_PROMPTS:
        raise NotMeasurable(
            f"{found.prompts} prompts have a leaf with a reward; expected {FEWEST_PROMPTS} at least, and better 64, "
            f"for an interval: measure more prompts"
        )
    if found.leaves < 2 or not found.sums["has_variance"].any():
        raise NotMeasurable(
            "no prompt has two leaves that start from it; expected several, so that rewards can be compared: raise "
            "actor_rollout_ref.rollout.n, and arpo.initial_rollouts"
        )
    if not has_calls:
        raise NotMeasurable(
            "no tool was called; expected calls, after whose results leaves fork: do not branch with this model as it "
            "is. Train it on traces of calls first (recipes/cold_start.sh), or mend its prompt"
        )
    if not found.sums["variance"].any():
        raise NotMeasurable(
            "all rewards of each prompt are equal; expected prompts on which the model is right now and then: neither "
            "trees nor GRPO learn from these. Take easier or harder questions, or look at the reward function"
        )
    if not found.depths:
        raise NotMeasurable(
            f"{found.forks} forks have leaves with rewards, of fewer than {FEWEST_FORKS} prompts at each number of "
            f"results; expected more, since the variance below forks is what decides: measure more prompts, a run "
            f"that branches, or the model itself with `arpo-verl measure OVERRIDES`"
        )


def measured(found: PromptSums, entropies: Entropies | None = None, seed: int = 0) -> Measurement:
    """Return the estimates from the sums of prompts.

    Args:
        found: of the prompts; `require_something` holds.
        entropies: of the same.
        seed: of the bootstrap.
    """
    resampled = Resampled(found.sums, seed)
    notes = (
        []
        if "seconds" in found.units
        else ["costs in seconds: no step with a server that is warm has times; measure more prompts than a batch has"]
    )
    designs = [
        design_of(resampled, found.units, depth, leaves, baseline)
        for depth in found.depths
        for leaves in leaves_to_try(found.leaves)
        for baseline in BASELINES
    ]
    known = [design for design in designs if TOKENS in design.costs]
    best = min(known, key=lambda design: design.costs[TOKENS].value, default=None)
    lift = _lift(resampled, found, "uncertain", "known")
    late = _lift(resampled, found, "late", "early")
    if lift is None:
        notes.append("lift of entropy: too few forks at which the rule has measured an entropy")
    if late is None:
        notes.append("lift of late forks: too few forks after a second result")
    first = min(found.depths)
    return Measurement(
        prompts=found.prompts,
        leaves=found.leaves,
        forks=found.forks,
        reward_variance=resampled.interval(_total),
        depths=[_depth(resampled, found, depth) for depth in found.depths],
        lift_of_entropy=lift,
        lift_of_late=late,
        silent=resampled.interval(lambda means: means["silent"] / means["sampled"]),
        designs=designs,
        presets=[
            PresetCost(names, design_of(resampled, found.units, first, PRESET_LEAVES, baseline))
            for baseline, names in preset_baselines().items()
        ],
        best=best,
        worst_of_best=None if best is None else worst_cost(resampled, best, TOKENS),
        entropies=entropies,
        notes=notes,
    )


def _total(means: Means) -> Values:
    return means["variance"] / means["has_variance"]


def _within(means: Means, depth: int) -> Values:
    return means[f"reach/{depth}"] * means[f"forked_variance/{depth}"] / means[f"forked/{depth}"]


def _depth(resampled: Resampled, found: PromptSums, depth: int) -> ForkDepth:
    ratios = {}
    for unit in found.units:
        after = f"{unit}_after/{depth}"
        ratio = resampled.interval(lambda means, unit=unit, after=after: (means[unit] - means[after]) / means[after])  # type: ignore[misc]
        if ratio is not None:
            ratios[unit] = ratio
    most = found.leaves
    return ForkDepth(
        depth=depth,
        reach=resampled.interval(lambda means: means[f"reach/{depth}"]),
        between=resampled.interval(lambda means: _total(means) - _within(means, depth)),
        within=resampled.interval(lambda means: _within(means, depth)),
        correlation=resampled.interval(lambda means: 1 - _within(means, depth) / _total(means)),
        cost_ratio=ratios,
        optimal_leaves=resampled.interval(lambda means: optimal_leaves(split_at(means, depth, TOKENS), most)),
        optimal_leaves_of_rewards=resampled.interval(
            lambda means: optimal_leaves_of_rewards(split_at(means, depth, TOKENS), most)
        ),
    )


def _lift(resampled: Resampled, found: PromptSums, chosen: str, others: str) -> Interval | None:
    """Return the mean variance below some forks over that below others; None where either are few."""
    for name in (chosen, others):
        weight = found.sums.get(f"weight/{name}")
        if weight is None or int((weight > 0).sum()) < FEWEST_FORKS:
            return None

    def mean(means: Means, name: str) -> Values:
        return means[f"weighted_variance/{name}"] / means[f"weight/{name}"]

    return resampled.interval(lambda means: mean(means, chosen) / mean(means, others))
