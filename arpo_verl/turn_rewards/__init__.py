"""Rewards of turns, one a file: `<name>.py` has the function `<name>(leaf)`; nothing else lists them.

Such a function gets a finished leaf as `LeafTurns` and returns a list with one entry for each of its turns, the first
turn first: a number, or None (or NaN) where a turn has no reward. `arpo.turn_rewards` names one of these or a function
of one's own by its dotted path; parameters beside the first are settings, `arpo.turn_reward_kwargs`. It may be a
coroutine function. What comes out becomes `TreeBatch.turn_rewards`, from which `term_sum` credits each turn
(MT-GRPO, arXiv 2505.11821). It needs no torch and no verl.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["LeafTurns", "Turn", "TurnCall"]


@dataclass(frozen=True)
class TurnCall:
    """One executed tool call of a turn."""

    name: str
    arguments: str | dict[str, Any]
    """The text of a tag, or the named arguments of a native call."""
    status: str
    """One of `arpo_tools.ToolStatus`, as text."""
    result: str
    """The result as the tool gave it, before it was cut to the token budget."""
    reward: float | None
    """The tool's own step reward, where it gives one."""
    latency_seconds: float
    retries: int


@dataclass(frozen=True)
class Turn:
    """One sampled turn and what followed it."""

    text: str
    """What the model wrote, special tokens included."""
    calls: tuple[TurnCall, ...] = ()
    """The calls that were executed; empty where the turn ends the answer."""
    result: str = ""
    """What was inserted after the turn, as the model sees it, markup included."""


@dataclass(frozen=True)
class LeafTurns:
    """A finished leaf as a function of turn rewards sees it, the turns of its shared prefix included."""

    turns: tuple[Turn, ...]
    stop_reason: str
    """Why the leaf ended: a value of `arpo_verl.rollout.tree.StopReason`."""
    ground_truth: Any
    """The row's `reward_model.ground_truth`."""
    step: int
    """The training step that the prompt was drawn for."""
    sample: Mapping[str, Any]
    """The fields of the dataset row, `data_source` and `extra_info` among them."""
