"""One recommendation from a measurement, in plain words."""

from dataclasses import dataclass
from enum import Enum

from arpo_verl.measure.bootstrap import Interval
from arpo_verl.measure.designs import Design
from arpo_verl.measure.law import GROUP, SHRUNK, SIBLINGS
from arpo_verl.measure.measurement import TOKENS, Measurement

ADVANTAGES = {
    GROUP: "arpo.preset=arpo_soft",
    SIBLINGS: "arpo.preset=rtmc",
    SHRUNK: "arpo.preset=shrunk",
}
"""What gives each baseline."""


class Verdict(Enum):
    """What to do."""

    BRANCH = "branch"
    DO_NOT = "do not branch"
    UNDECIDED = "not decided"


@dataclass(frozen=True)
class Recommendation:
    """What to do, and why."""

    verdict: Verdict
    text: str
    settings: tuple[str, ...] = ()
    """Overrides that do it."""


def recommend(measurement: Measurement) -> Recommendation:
    """Return what to do: branch only where the whole interval of the best design's cost is below GRPO's.

    Args:
        measurement: of the task with the model.
    """
    best = measurement.best
    if best is None:
        return Recommendation(
            Verdict.UNDECIDED,
            "The forks are too few to predict what a tree costs. Measure more prompts.",
        )
    best = _simplest(measurement, best)
    cost = best.costs[TOKENS]
    if cost.is_below_one:
        return Recommendation(Verdict.BRANCH, _branch(measurement, best), _settings(measurement, best))
    flat = ("arpo.preset=grpo",)
    if cost.value >= 1:
        return Recommendation(
            Verdict.DO_NOT,
            f"Do not branch: the best tree would cost {_times(cost)} what GRPO costs in sampled tokens for the same "
            f"variance.",
            flat,
        )
    wanted = measurement.prompts * max(2, round(((cost.high - cost.low) / 2 / max(1 - cost.value, 0.02)) ** 2))
    return Recommendation(
        Verdict.UNDECIDED,
        f"Not decided: the best tree would cost {_times(cost)} what GRPO costs, and the interval contains 1. Measure "
        f"about {wanted} prompts to decide it; do not branch until then.",
        flat,
    )


def _simplest(measurement: Measurement, best: Design) -> Design:
    """Return the best design with the group's baseline, where another one's interval begins no lower than it is."""
    same = [one for one in measurement.designs if one.baseline == GROUP and TOKENS in one.costs]
    plain = min(same, key=lambda one: one.costs[TOKENS].value, default=best)
    return plain if best.costs[TOKENS].high >= plain.costs[TOKENS].value else best


def _settings(measurement: Measurement, design: Design) -> tuple[str, ...]:
    """Return the overrides that grow a design: forks at the first result by a coin, and later ones in a round."""
    roots = max(1, measurement.leaves // design.leaves)
    lift = measurement.lift_of_entropy
    if design.depth > 1:
        where: tuple[str, ...] = (
            "arpo.rule=sample",
            "+arpo.rule_kwargs.rounds=1",
            "+arpo.rule_kwargs.score=position",
            "+arpo.rule_kwargs.position_power=2.0",
        )
    elif lift is not None and lift.is_above_one:
        where = ("arpo.rule=bernoulli",)
    else:
        where = ("arpo.rule=bernoulli", "arpo.base_probability=1", "arpo.entropy_weight=0")
    return (
        ADVANTAGES[design.baseline],
        f"actor_rollout_ref.rollout.n={measurement.leaves}",
        f"arpo.initial_rollouts={roots}",
        f"arpo.branch_factor={design.leaves}",
        *where,
    )


def _branch(measurement: Measurement, design: Design) -> str:
    cost = design.costs[TOKENS]
    roots = max(1, measurement.leaves // design.leaves)
    text = (
        f"Branch: {roots} leaves from the prompt, each forked into {design.leaves} after its {ordinal(design.depth)} "
        f"result, credited against {_BASELINE_WORDS[design.baseline]}. For the variance that GRPO has this costs "
        f"{_times(cost)} the sampled tokens."
    )
    lift = measurement.lift_of_entropy
    if lift is not None:
        says = (
            "Rewards differ more below forks with a higher entropy: let it decide (arpo.entropy_weight above 0)."
            if lift.is_above_one
            else "Rewards differ less below forks with a higher entropy: do not let it decide (arpo.entropy_weight=0)."
            if lift.is_below_one
            else "Whether entropy marks the better forks is not shown: arpo.entropy_weight=0 is as good and simpler."
        )
        text = f"{text} {says}"
    worst = measurement.worst_of_best
    if worst is not None and worst.high >= 1 and design == measurement.best:
        text = (
            f"{text} If the right decision after a fork were the opposite one for half of the prefixes, it would cost "
            f"{_times(worst)}, credited against all leaves; rewards alone can't exclude that."
        )
    return text


_BASELINE_WORDS = {
    GROUP: "the mean of the prompt's leaves",
    SIBLINGS: "its siblings",
    SHRUNK: "the mix of siblings and other roots' leaves with the least variance",
}


def ordinal(number: int) -> str:
    """Return a number from 1 on as a word of order."""
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")


def _times(cost: Interval) -> str:
    return f"{cost.value:.2f} [{cost.low:.2f}, {cost.high:.2f}] times"
