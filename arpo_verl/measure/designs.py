"""Designs of trees, what each is predicted to cost, and the presets of the family that grow and credit them so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from arpo_verl.measure.bootstrap import Interval, Resampled
from arpo_verl.measure.law import GROUP, SHRUNK, SIBLINGS, at_worst, relative_cost, split_at
from arpo_verl.presets import load_preset, preset_names

FLAT = "grpo"
"""The preset that all others are compared with."""
BASELINES = (GROUP, SIBLINGS, SHRUNK)
PRESET_LEAVES = 2
"""K of the presets: `arpo.branch_factor`, and half of the leaves start from the prompt."""
_COMPARE_SIBLINGS = ("siblings", "children", "parent")
"""Values of a term's `baseline` with which a turn is compared with what leaves the same fork: a factor apart the same
(docs/algorithms)."""
_NO_MATTER = {"terms", "value", "multiplicity"}
"""Settings of a term sum that change nothing where every fork has as many leaves."""


@dataclass(frozen=True)
class Design:
    """M / K leaves from the prompt, each with K below its fork, and what that costs."""

    depth: int
    """Results before the fork."""
    leaves: int
    """K."""
    baseline: str
    costs: Mapping[str, Interval]
    """For the variance that GRPO has, over what GRPO costs, by unit; a unit whose interval is not known is absent."""


@dataclass(frozen=True)
class PresetCost:
    """Presets that the law can't tell apart, and their cost."""

    names: tuple[str, ...]
    design: Design


def design_of(resampled: Resampled, units: Sequence[str], depth: int, leaves: int, baseline: str) -> Design:
    """Return a design with its predicted costs.

    Args:
        resampled: the prompts' means.
        units: that leaves have costs in.
        depth: results before the fork.
        leaves: K.
        baseline: one of `BASELINES`.
    """
    costs = {}
    for unit in units:
        found = resampled.interval(
            lambda means, unit=unit: relative_cost(split_at(means, depth, unit), leaves, baseline)  # type: ignore[misc]
        )
        if found is not None:
            costs[unit] = found
    return Design(depth, leaves, baseline, costs)


def worst_cost(resampled: Resampled, design: Design, unit: str) -> Interval | None:
    """Return the cost of a design if suffixes' gradients differ most between prefixes (`law.at_worst`)."""
    return resampled.interval(lambda means: at_worst(split_at(means, design.depth, unit), design.leaves))


def leaves_to_try(most: int) -> tuple[int, ...]:
    """Return the K from 2 to M that leave two roots at least: the powers of two."""
    return tuple(2**power for power in range(1, most.bit_length()) if 2**power * 2 <= most)


def baseline_of(settings: Mapping[str, Any]) -> str | None:
    """Return what a preset compares a token after a fork with; None where the law does not cover it.

    Args:
        settings: of a preset, by verl's dotted keys.
    """
    if settings.get("algorithm.adv_estimator") != "arpo":
        return None
    kwargs = settings.get("arpo.advantage_kwargs") or {}
    terms = kwargs.get("terms") or []
    if not kwargs:
        return GROUP
    if len(terms) != 1 or "signal" in terms[0] or kwargs.keys() - _NO_MATTER:
        return None
    term = terms[0]
    if term["baseline"] == SHRUNK:
        return SHRUNK
    if term["unit"] == "node":
        return SIBLINGS if term["baseline"] in _COMPARE_SIBLINGS else None
    return GROUP if term["baseline"] == "group" else None


@lru_cache
def preset_baselines() -> dict[str, tuple[str, ...]]:
    """Return the shipped presets that grow trees by their baseline, those alone that choose where and what to compare.

    Presets that change the loss, the reward or the rows beside that are in the place of the one without; they are left
    out, as are those of two terms, with a signal of their own, or discounted.
    """
    found: dict[str, tuple[str, ...]] = {}
    for name in preset_names():
        settings = load_preset(name).settings
        baseline = baseline_of(settings)
        chooses = any(key in settings for key in ("arpo.rule", "arpo.advantage"))
        changes = {"arpo.loss", "arpo.replay", "arpo.hints", "arpo.turn_rewards", "arpo.information_gain"}
        if name == FLAT or baseline is None or not chooses or changes & settings.keys():
            continue
        found[baseline] = (*found.get(baseline, ()), name)
    return found
