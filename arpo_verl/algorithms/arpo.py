"""ARPO's advantage (arXiv 2507.19849, section 3.2 and appendix D.1).

Soft (the paper's default) is GRPO over the M leaves of a prompt, shared prefixes included in every leaf that has them:

    A_i = (r_i - mean(r)) / (std(r) + epsilon)

Hard gives a token that d leaves share the mean of their d advantages:

    A_{i,t} = (1/d) sum over the leaves j that share token t of A_j

With token-mean aggregation and nothing clipped the two give the same gradient: the d copies of a shared token have the
same ratio, and d times the mean is the sum.

Deviations: none from the paper in soft mode. The released code has no hard mode; there a shared token's mean is taken
over its copies in the batch, as the paper's formula says, and not over the whole group.
"""

import logging
import math
import numbers
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from arpo_verl.algorithms.arguments import (
    PADDING,
    as_flags,
    as_integers,
    as_tensor,
    divides_by_std,
    group_numbers,
    require_equal_shapes,
)

logger = logging.getLogger(__name__)

NAMED_ROWS = 8
"""How many rows a warning names."""


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
    tensors = _tensors(token_level_rewards, response_mask, segment_ids)
    _check(tensors, mode, epsilon)
    rewards, mask = tensors["token_level_rewards"], tensors["response_mask"]
    group = group_numbers(index, len(rewards), rewards.device)
    is_counted = ~as_flags("is_excluded", is_excluded, len(rewards), rewards.device)
    scores = _scores(rewards)
    is_counted &= _is_usable(scores, is_counted)
    scores = scores.masked_fill(~is_counted, 0.0)
    advantage = _group_relative(scores, group, is_counted, divides_by_std(norm_by_std, config), epsilon)
    dtype = torch.promote_types(rewards.dtype, torch.float32)
    if mode == "soft":
        advantages = (advantage.to(dtype).unsqueeze(-1) * mask).to(dtype)
    else:
        advantages = _mean_over_leaves(advantage, is_counted, tensors["segment_ids"], group, dtype).mul_(mask)
    return advantages, advantages


def _tensors(rewards: object, mask: object, segment_ids: object) -> dict[str, torch.Tensor]:
    """Return the arguments of shape (batch, response_length) by name, on the device of the rewards."""
    tensors = {"token_level_rewards": as_tensor("token_level_rewards", rewards)}
    device = tensors["token_level_rewards"].device
    tensors["response_mask"] = as_tensor("response_mask", mask, device)
    if segment_ids is not None:
        tensors["segment_ids"] = as_integers("segment_ids", segment_ids, device)
    return tensors


def _check(tensors: dict[str, torch.Tensor], mode: str, epsilon: float) -> None:
    if mode not in ("soft", "hard"):
        raise ValueError(f"mode={mode!r}; expected 'soft' or 'hard'")
    if mode == "hard" and "segment_ids" not in tensors:
        raise ValueError(
            "mode='hard' got segment_ids=None; expected the ids of every token: pass them, as "
            "arpo_verl.algorithms.segments makes them, or use mode='soft'"
        )
    if not isinstance(epsilon, numbers.Real) or not 0 <= epsilon < math.inf:
        raise ValueError(f"epsilon={epsilon!r}; expected a number of at least 0: change it")
    require_equal_shapes(tensors, ("batch", "response_length"))


def _scores(rewards: torch.Tensor) -> torch.Tensor:
    """Return the sum over each row, in double precision: in single precision the mean of equal rewards is rounded, and
    over a standard deviation of almost 0 that would be an advantage."""
    is_precise = rewards.dtype in (torch.float32, torch.float64)
    return rewards.sum(dim=-1).double() if is_precise else rewards.sum(dim=-1, dtype=torch.float64)


def _is_usable(scores: torch.Tensor, is_counted: torch.Tensor) -> torch.Tensor:
    """Return which rewards are finite, and say in the log which of the counted ones are not."""
    is_finite = scores.isfinite()
    bad = (is_counted & ~is_finite).nonzero().flatten().tolist()
    if bad:
        rows = ", ".join(f"{row} ({float(scores[row])})" for row in bad[:NAMED_ROWS])
        logger.warning(
            "the rewards of %d of %d rows are not finite numbers: rows %s%s; they are left out of their groups and get "
            "the advantage 0: mend the reward function, or exclude them",
            *(len(bad), len(scores), rows, ", ..." if len(bad) > NAMED_ROWS else ""),
        )
    return is_finite


def _group_relative(
    scores: torch.Tensor, group: torch.Tensor, is_counted: torch.Tensor, norm_by_std: bool, epsilon: float
) -> torch.Tensor:
    """Return each score minus its group's mean, over the group's (n - 1) standard deviation. Shape (batch,).

    The rows that are not counted have no part in the statistics, and 0 as result.
    """
    groups = int(group.max()) + 1 if len(group) else 0
    zeros = torch.zeros(groups, dtype=scores.dtype, device=scores.device)
    counts = is_counted.to(scores.dtype)
    size = zeros.index_add(0, group, counts)
    is_single = zeros.index_add(0, group, torch.ones_like(counts)) == 1
    # Taken from the group's lowest score, the differences of equal scores are 0, and so is their mean, unrounded.
    lowest = zeros.scatter_reduce(0, group[is_counted], scores[is_counted], "amin", include_self=False)
    above = (scores - lowest[group]) * counts
    mean = zeros.index_add(0, group, above) / size.clamp(min=1)
    centred = (above - mean[group]).masked_fill(~is_counted, 0.0)
    centred = torch.where(is_single[group], scores, centred)
    if not norm_by_std:
        return centred
    variance = zeros.index_add(0, group, centred**2) / (size - 1).clamp(min=1)
    divisor = torch.where(is_single, torch.ones_like(mean), variance.sqrt())[group] + epsilon
    return torch.where(divisor > 0, centred / divisor, torch.zeros_like(centred))


@dataclass(frozen=True)
class _Pieces:
    """A batch cut into pieces of one row and one id each, in the order of the flattened batch. All shapes (pieces,)."""

    start: torch.Tensor
    """Positions in the flattened batch."""
    row: torch.Tensor
    segment_id: torch.Tensor
    sharers: torch.Tensor
    """Equal numbers for the pieces that share their tokens."""


def _mean_over_leaves(
    advantage: torch.Tensor,
    is_counted: torch.Tensor,
    segment_ids: torch.Tensor,
    group: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return, for each token, the mean advantage of the leaves that share it. Shape (batch, response_length)."""
    if segment_ids.numel() == 0:
        return torch.zeros_like(segment_ids, dtype=dtype)
    pieces = _pieces(segment_ids, group)
    zeros = torch.zeros(int(pieces.sharers.max()) + 1, dtype=advantage.dtype, device=advantage.device)
    leaves = zeros.index_add(0, pieces.sharers, is_counted[pieces.row].to(zeros.dtype))
    total = zeros.index_add(0, pieces.sharers, advantage[pieces.row])
    mean = (total / leaves.clamp(min=1))[pieces.sharers]
    has_advantage = is_counted[pieces.row] & (pieces.segment_id != PADDING)
    values = mean.masked_fill(~has_advantage, 0.0).to(dtype)
    return _repeat(values, _lengths(pieces.start, segment_ids.numel()), segment_ids.numel()).reshape(segment_ids.shape)


def _pieces(segment_ids: torch.Tensor, group: torch.Tensor) -> _Pieces:
    """Cut the batch into runs of equal ids where that is enough, else at every column where a leaf of the prompt
    changes its id: between two such columns, leaves that share a token share all."""
    flat, width = segment_ids.reshape(-1), segment_ids.shape[1]
    start, run_ids = _find_runs(flat, width)
    row = start // width
    runs = _Pieces(start, row, run_ids, _numbers_of_pairs(group[row], run_ids, flat.numel()))
    return runs if _are_whole(runs, flat.numel(), width) else _cells(runs, flat, width, group)


def _find_runs(flat: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return, in order, the positions at which a row begins or its id changes, and the ids there."""
    run_ids, lengths = torch.unique_consecutive(flat, return_counts=True)  # faster than comparing neighbours
    ends = lengths.cumsum(0)
    row_starts = torch.arange(0, flat.numel(), width, device=flat.device)
    start = torch.unique(torch.cat([row_starts, ends[:-1]]))
    return start, run_ids[torch.searchsorted(ends, start, right=True)]


def _are_whole(runs: _Pieces, total: int, width: int) -> bool:
    """Whether all runs of a prompt that have the same id begin and end at the same tokens. Padding does not count."""
    column, length = runs.start % width, _lengths(runs.start, total)
    example = torch.zeros(int(runs.sharers.max()) + 1, dtype=torch.long, device=column.device)
    example[runs.sharers] = torch.arange(len(column), device=column.device)
    example = example[runs.sharers]
    is_whole = (column == column[example]) & (length == length[example])
    return bool((is_whole | (runs.segment_id == PADDING)).all())


def _cells(runs: _Pieces, flat: torch.Tensor, width: int, group: torch.Tensor) -> _Pieces:
    cut = torch.unique(group[runs.row] * width + runs.start % width)  # by prompt, then by column
    cuts = torch.bincount(cut // width, minlength=int(group.max()) + 1)
    first = cuts.cumsum(0) - cuts
    cells = cuts[group]
    row = torch.repeat_interleave(torch.arange(len(group), device=flat.device), cells)
    number = torch.arange(len(row), device=flat.device) - (cells.cumsum(0) - cells)[row]
    interval = first[group[row]] + number
    start = row * width + cut[interval] % width
    return _Pieces(start, row, flat[start], _numbers_of_pairs(interval, flat[start], flat.numel()))


def _numbers_of_pairs(first: torch.Tensor, second: torch.Tensor, at_most: int) -> torch.Tensor:
    """Number the different pairs of two tensors from 0, with gaps where the numbers stay below `at_most` all the same.

    `first` holds small numbers of at least 0, `second` any.
    """
    lowest, highest = int(second.min()), int(second.max())
    if (int(first.max()) + 1) * (highest - lowest + 1) <= at_most:
        return first * (highest - lowest + 1) + (second - lowest)
    values, dense = torch.unique(second, return_inverse=True)
    numbers: torch.Tensor = torch.unique(first * len(values) + dense, return_inverse=True)[1]
    return numbers


def _lengths(start: torch.Tensor, total: int) -> torch.Tensor:
    lengths: torch.Tensor = torch.diff(start, append=start.new_tensor([total]))
    return lengths


def _repeat(values: torch.Tensor, times: torch.Tensor, total: int) -> torch.Tensor:
    """Return each value as often as `times` says, `total` values in all."""
    if values.device.type == "cpu":
        repeated: torch.Tensor = torch.from_numpy(np.repeat(values.numpy(), times.numpy()))
        return repeated  # ten times as fast as torch's
    return torch.repeat_interleave(values, times, output_size=total)
