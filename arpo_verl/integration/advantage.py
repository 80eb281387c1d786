"""The estimator under verl's signature (`trainer/ppo/ray_trainer.py`, `compute_advantage`).

verl hands an estimator rewards, mask and prompt of each row, and nothing about trees. The trainer lays the rest beside
it for the time of the call.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from arpo_verl.algorithms.arguments import PADDING
from arpo_verl.algorithms.arpo import compute_arpo_advantage
from arpo_verl.config.arpo_config import Advantage


@dataclass(frozen=True)
class TreeTensors:
    """What the batch's leaves say beside verl's fields; rows in the order of the batch."""

    mode: Advantage
    segment_ids: list[torch.Tensor]
    """Segment of each token, one tensor a row, as long as its response."""
    is_excluded: torch.Tensor
    """Rows to leave out of their group's statistics. Shape (batch,)."""


_trees: ContextVar[TreeTensors | None] = ContextVar("trees", default=None)


@contextmanager
def beside(trees: TreeTensors) -> Iterator[None]:
    """Let estimators that are called inside the block see the trees."""
    token = _trees.set(trees)
    try:
        yield
    finally:
        _trees.reset(token)


def estimate_arpo_advantage(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, config: Any, index: np.ndarray, **_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """ARPO's advantage; soft where no trainer of ours has laid the trees beside it.

    Args:
        token_level_rewards: shape (batch, response_length).
        response_mask: shape (batch, response_length).
        config: verl's `algorithm` group.
        index: the prompt of each row.
        **_: other arguments of verl's, which are not needed.
    """
    trees = _trees.get()
    if trees is None:
        return compute_arpo_advantage(token_level_rewards, response_mask, index, config=config)
    return compute_arpo_advantage(
        token_level_rewards,
        response_mask,
        index,
        segment_ids=pad(trees.segment_ids, response_mask.shape[1]),
        mode=trees.mode,
        is_excluded=trees.is_excluded,
        config=config,
    )


def entropy_after_tools(entropy: torch.Tensor, response_mask: torch.Tensor, probe_tokens: int) -> dict[str, float]:
    """Return the mean entropy of the first k sampled tokens after tool results, and of all other sampled tokens.

    Args:
        entropy: of each token, in nats. Shape (batch, response_length).
        response_mask: 1 for sampled tokens, 0 for tool results and padding. Shape (batch, response_length).
        probe_tokens: k.
    """
    is_sampled = response_mask.bool()
    position = torch.arange(entropy.shape[1], device=entropy.device).expand_as(response_mask)
    never = -probe_tokens - 1
    last_result = torch.where(is_sampled, never, position).cummax(dim=1).values
    is_after = is_sampled & (position - last_result <= probe_tokens)
    parts = {"after_tool": entropy[is_after], "elsewhere": entropy[is_sampled & ~is_after]}
    return {f"arpo/actor_entropy/{name}": float(values.mean()) for name, values in parts.items() if len(values)}


def pad(rows: list[torch.Tensor], width: int) -> torch.Tensor:
    """Return the rows as one tensor of shape (batch, width), filled up with `PADDING`."""
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PADDING)
    return torch.nn.functional.pad(padded, (0, width - padded.shape[1]), value=PADDING)
