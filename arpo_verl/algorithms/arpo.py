"""ARPO's advantage (arXiv 2507.19849) as one function of tensors, arrays or lists, with torch and without verl."""

import math
import numbers
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import torch

from arpo_verl.advantages import ADVANTAGES, TreeBatch
from arpo_verl.advantages.tree.arguments import (
    as_flags,
    as_integers,
    as_tensor,
    divides_by_std,
    group_numbers,
    require_equal_shapes,
)

MODES = ("hard", "soft")


def compute_arpo_advantage(  # noqa: PLR0913  the signature that users import
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: Iterable[object] | np.ndarray,
    segment_ids: torch.Tensor | None = None,
    mode: Literal["soft", "hard"] = "soft",
    norm_by_std: bool = True,
    epsilon: float = 1e-6,
    is_excluded: torch.Tensor | None = None,
    config: Any = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the advantages of all leaves of a batch, and the returns, which equal them: there is no critic.

    Tensors may be of any real type and device, numpy arrays or lists of numbers; no gradient flows through the result.

    Args:
        token_level_rewards: shape (batch, response_length); a leaf's reward is the sum over its row.
        response_mask: 1 for sampled tokens, 0 for tool results and padding; shape (batch, response_length).
        index: the prompt's id of each row: numbers, strings, tuples, in any order and mixed. Length batch.
        segment_ids: two rows of one prompt share token t if and only if their ids are equal at t; -1 is padding, which
            gets the advantage 0. Shape (batch, response_length). Needed in hard mode; fastest as
            `arpo_verl.algorithms.segments` makes them.
        mode: `soft` or `hard`.
        norm_by_std, epsilon: divide by the group's deviation plus epsilon (GRPO) or not (Dr. GRPO, arXiv 2503.20783).
        is_excluded: rows that count in no mean and have the advantage 0. Shape (batch,), truths or 0 and 1.
        config: verl's `algorithm` group or None; where its `norm_adv_by_std_in_grpo` is false, nothing is divided.

    Returns:
        (advantages, returns), shape (batch, response_length), on the rewards' device, zero where `response_mask` is 0;
        of 64 bits where the rewards are, else of 32. The only leaf of a prompt keeps its reward as advantage, as in
        verl's `grpo`; the only one left of several has 0. A row whose reward is not finite is left out like an
        excluded one, with a warning; empty its mask, lest its tokens count in the loss's denominator.

    Raises:
        ValueError: an argument is not what is described here; the message names it.
    """
    if mode not in MODES:
        raise ValueError(f"mode={mode!r}; expected one of {', '.join(MODES)}: change it")
    advantage = ADVANTAGES.shipped(mode, "mode")
    if not isinstance(epsilon, numbers.Real) or not 0 <= epsilon < math.inf:
        raise ValueError(f"epsilon={epsilon!r}; expected a number of at least 0: change it")
    batch = _batch(token_level_rewards, response_mask, index, segment_ids, is_excluded)
    advantages = advantage(batch, norm_adv_by_std_in_grpo=divides_by_std(norm_by_std, config), epsilon=float(epsilon))
    return advantages, advantages


def _batch(rewards: object, mask: object, index: object, segment_ids: object, is_excluded: object) -> TreeBatch:
    """Return the arguments as a batch, on the device of the rewards."""
    tensors = {"token_level_rewards": as_tensor("token_level_rewards", rewards)}
    device = tensors["token_level_rewards"].device
    tensors["response_mask"] = as_tensor("response_mask", mask, device)
    if segment_ids is not None:
        tensors["segment_ids"] = as_integers("segment_ids", segment_ids, device)
    require_equal_shapes(tensors, ("batch", "response_length"))
    rows = len(tensors["token_level_rewards"])
    return TreeBatch(
        **tensors,
        prompt=group_numbers(index, rows, device),
        is_excluded=as_flags("is_excluded", is_excluded, rows, device),
    )
