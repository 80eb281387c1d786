"""Bounds how much of a step may be lost, because the rollout of a prompt or a leaf's reward failed."""

from collections.abc import Iterable, Mapping
from typing import Any

from arpo_verl.integration.tool_guard import RunStopped
from arpo_verl.rollout.metrics import Trees

REWARD_FAILURE = "reward_failure"
"""Key of verl's `reward_extra_info` under which the worker says why a leaf has no reward."""


def lost_fraction(trees: Trees, prompts: int, leaves: int, failures: Iterable[str]) -> float:
    """Return the share of a step's leaves that were asked for and have no reward.

    Args:
        trees: the leaves that have come, by prompt.
        prompts: how many were asked for; those of which no leaf has come have failed.
        leaves: of a prompt that has failed.
        failures: why leaves of `trees` have no reward.

    Raises:
        RuntimeError: a tree is incomplete, or there are more trees than prompts.
    """
    short = [f"{uid}: {len(tree)} of {tree[0].leaves}" for uid, tree in trees.items() if len(tree) != tree[0].leaves]
    if short or len(trees) > prompts:
        raise RuntimeError(
            f"got {len(trees)} of {prompts} prompts, leaves missing in {short or 'none of them'}; expected every leaf "
            f"of every prompt that has not failed: this is an error in arpo-verl, please report it"
        )
    come = sum(len(tree) for tree in trees.values())
    failed = (prompts - len(trees)) * leaves
    return (failed + len(list(failures))) / (come + failed)


def reward_failures(fields: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return why leaves have no reward, one text for each leaf of which the worker says so."""
    infos = (of_leaf.get("reward_extra_info", {}) for of_leaf in fields.values())
    return [info[REWARD_FAILURE] for info in infos if REWARD_FAILURE in info]


def require_enough_leaves(fraction: float, at_most: float, failures: list[str]) -> None:
    """Stop a run that loses more than `arpo.max_failed_fraction` of a step.

    Raises:
        RunStopped: `fraction` exceeds `at_most`.
    """
    if fraction <= at_most:
        return
    first = f" The first failure of a reward: {failures[0]}." if failures else ""
    raise RunStopped(
        f"{fraction:.0%} of the step's leaves are lost, because the rollout of their prompt or their reward failed; "
        f"expected at most arpo.max_failed_fraction={at_most:g}: the causes are in the log above, at 'the rollout of "
        f"prompt' and 'the reward of'.{first} Mend them, or raise the limit"
    )
