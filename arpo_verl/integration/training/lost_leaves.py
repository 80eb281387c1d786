"""Bounds how much of a step may be lost, because the rollout of a prompt or a leaf's reward failed."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from arpo_verl.integration.training.tool_guard import RunStopped
from arpo_verl.rollout.leaf_signals import signal_metrics
from arpo_verl.rollout.metrics import Trees

REWARD_FAILURE = "reward_failure"
"""Key of verl's `reward_extra_info` under which the worker says why a leaf has no reward."""
FAILURE = "failure"
"""Key of a prompt's tags in TransferQueue under which the worker says why its rollout failed."""


class TooManyReplaced(RunStopped):
    """The rollouts of too many prompts have failed; what the others have grown is as good as ever."""

    are_leaves_bad = False


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


def checked_signal_metrics(leaves: Iterable[Mapping[str, Any]], at_most: float) -> dict[str, float]:
    """Return the metrics of the leaves' signals; stop a run whose function of turn rewards fails too often.

    Args:
        leaves: the extra fields of a step's leaves.
        at_most: `arpo.max_failed_fraction`.

    Raises:
        RunStopped: a larger share of the leaves has no rewards of turns although it should.
    """
    metrics = signal_metrics(leaves)
    fraction = metrics.get("turn_reward/failed_fraction", 0.0)
    if fraction > at_most:
        raise RunStopped(
            f"{fraction:.0%} of the step's leaves have no rewards of their turns, because the function that gives them "
            f"(arpo.turn_rewards, or turn_rewards of the reward function) failed; expected at most "
            f"arpo.max_failed_fraction={at_most:g}: the causes are in the log above, at 'turn rewards' and 'rewards of "
            f"its turns'. Mend it, or raise the limit"
        )
    return metrics


def require_few_replacements(failed: int, prompts: int, at_most: float, cause: Callable[[], str | None]) -> None:
    """Stop a run that has to replace more than `arpo.max_failed_fraction` of the prompts that a step asks for.

    Args:
        failed: how many prompts of the step have failed.
        prompts: how many the step trains on.
        at_most: the limit.
        cause: returns why one of them has failed, if it can be told.

    Raises:
        TooManyReplaced: `failed` of `failed + prompts` exceed `at_most`.
    """
    fraction = failed / (failed + prompts)
    if fraction <= at_most:
        return
    first = cause()
    said = f" One of the causes: {first}." if first else ""
    raise TooManyReplaced(
        f"the rollouts of {failed} prompts failed in a step that trains on {prompts}, {fraction:.0%} of those that "
        f"were asked; expected at most arpo.max_failed_fraction={at_most:g}: the causes are in the log above, at 'the "
        f"rollout of prompt' or 'Error in _run_prompt'.{said} Mend them, or raise the limit"
    )
