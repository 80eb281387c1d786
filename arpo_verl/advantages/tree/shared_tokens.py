"""Runs of tokens that leaves share, and means over them, for a whole batch at once."""

from dataclasses import dataclass

import numpy as np
import torch

from arpo_verl.advantages.tree.arguments import PADDING


@dataclass(frozen=True)
class Pieces:
    """A batch cut into pieces of one row and one id each, in the order of the flattened batch. All shapes (pieces,)."""

    start: torch.Tensor
    """Positions in the flattened batch."""
    row: torch.Tensor
    segment_id: torch.Tensor
    sharers: torch.Tensor
    """Equal numbers for the pieces that share their tokens."""


def mean_over_leaves(
    values: torch.Tensor,
    is_counted: torch.Tensor,
    segment_ids: torch.Tensor,
    prompt: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return, for each token, the mean of a value of the leaves that share it; 0 for padding and uncounted rows.

    Args:
        values: one of each leaf. Shape (batch,).
        is_counted: rows that have a part in the means. Shape (batch,).
        segment_ids: two rows of one prompt share token t if and only if their ids are equal at t; -1 is padding. Shape
            (batch, response_length).
        prompt: the number of each row's prompt, from 0. Shape (batch,).
        dtype: of the result.

    Returns:
        Shape (batch, response_length).
    """
    if segment_ids.numel() == 0:
        return torch.zeros_like(segment_ids, dtype=dtype)
    pieces = _pieces(segment_ids, prompt)
    zeros = torch.zeros(int(pieces.sharers.max()) + 1, dtype=values.dtype, device=values.device)
    leaves = zeros.index_add(0, pieces.sharers, is_counted[pieces.row].to(zeros.dtype))
    total = zeros.index_add(0, pieces.sharers, values[pieces.row])
    mean = (total / leaves.clamp(min=1))[pieces.sharers]
    has_mean = is_counted[pieces.row] & (pieces.segment_id != PADDING)
    means = mean.masked_fill(~has_mean, 0.0).to(dtype)
    return _repeat(means, _lengths(pieces.start, segment_ids.numel()), segment_ids.numel()).reshape(segment_ids.shape)


def cut_into_runs(
    segment_ids: torch.Tensor, response_mask: torch.Tensor, prompt: torch.Tensor
) -> tuple[Pieces, torch.Tensor]:
    """Return a batch cut into pieces whose tokens are all sampled or all not, and the pieces' lengths.

    Args:
        segment_ids: as in `TreeBatch`. Shape (batch, response_length).
        response_mask: 1 for sampled tokens. Shape (batch, response_length).
        prompt: the number of each row's prompt, from 0. Shape (batch,).
    """
    total = segment_ids.numel()
    if total == 0:
        none = segment_ids.new_zeros(0)
        return Pieces(none, none, none, none), none
    pieces = _pieces(segment_ids, prompt)
    lengths = _lengths(pieces.start, total)
    sampled = _sums(response_mask, pieces.start)
    if not bool(((sampled == 0) | (sampled == lengths)).all()):
        # Ids that go on over a tool result, such as those made from tokens alone.
        mask = response_mask != 0
        number = torch.nn.functional.pad((mask[:, 1:] != mask[:, :-1]).long().cumsum(dim=1), (1, 0))
        numbered = segment_ids * (int(number.max()) + 1) + number
        pieces = _pieces(torch.where(segment_ids == PADDING, PADDING, numbered), prompt)
        lengths = _lengths(pieces.start, total)
    return pieces, lengths


def repeat_runs(values: torch.Tensor, lengths: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Return one value of each piece at all of its tokens, in the shape of the batch."""
    return _repeat(values, lengths, shape.numel()).reshape(shape)


def _pieces(segment_ids: torch.Tensor, group: torch.Tensor) -> Pieces:
    """Cut the batch into runs of equal ids where that is enough, else at every column where a leaf of the prompt
    changes its id: between two such columns, leaves that share a token share all."""
    flat, width = segment_ids.reshape(-1), segment_ids.shape[1]
    start, run_ids = _find_runs(flat, width)
    row = start // width
    runs = Pieces(start, row, run_ids, _numbers_of_pairs(group[row], run_ids, flat.numel()))
    return runs if _are_whole(runs, flat.numel(), width) else _cells(runs, flat, width, group)


def _find_runs(flat: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return, in order, the positions at which a row begins or its id changes, and the ids there."""
    run_ids, lengths = torch.unique_consecutive(flat, return_counts=True)  # faster than comparing neighbours
    ends = lengths.cumsum(0)
    row_starts = torch.arange(0, flat.numel(), width, device=flat.device)
    start = torch.unique(torch.cat([row_starts, ends[:-1]]))
    return start, run_ids[torch.searchsorted(ends, start, right=True)]


def _are_whole(runs: Pieces, total: int, width: int) -> bool:
    """Whether all runs of a prompt that have the same id begin and end at the same tokens. Padding does not count."""
    column, length = runs.start % width, _lengths(runs.start, total)
    example = torch.zeros(int(runs.sharers.max()) + 1, dtype=torch.long, device=column.device)
    example[runs.sharers] = torch.arange(len(column), device=column.device)
    example = example[runs.sharers]
    is_whole = (column == column[example]) & (length == length[example])
    return bool((is_whole | (runs.segment_id == PADDING)).all())


def _cells(runs: Pieces, flat: torch.Tensor, width: int, group: torch.Tensor) -> Pieces:
    cut = torch.unique(group[runs.row] * width + runs.start % width)  # by prompt, then by column
    cuts = torch.bincount(cut // width, minlength=int(group.max()) + 1)
    first = cuts.cumsum(0) - cuts
    cells = cuts[group]
    row = torch.repeat_interleave(torch.arange(len(group), device=flat.device), cells)
    number = torch.arange(len(row), device=flat.device) - (cells.cumsum(0) - cells)[row]
    interval = first[group[row]] + number
    start = row * width + cut[interval] % width
    return Pieces(start, row, flat[start], _numbers_of_pairs(interval, flat[start], flat.numel()))


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


def _sums(response_mask: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """Return the sum of a mask over each piece."""
    flat = response_mask.reshape(-1)
    if flat.device.type == "cpu":
        # Reads the mask once, as it is; a sum of ones is exact in single precision up to 2**24.
        dtype = None if flat.is_floating_point() else np.int64
        return torch.from_numpy(np.add.reduceat(flat.numpy(), start.numpy(), dtype=dtype))
    lengths = _lengths(start, flat.numel())
    sums: torch.Tensor = torch.segment_reduce(flat.float(), "sum", lengths=lengths)
    return sums


def _lengths(start: torch.Tensor, total: int) -> torch.Tensor:
    lengths: torch.Tensor = torch.diff(start, append=start.new_tensor([total]))
    return lengths


def _repeat(values: torch.Tensor, times: torch.Tensor, total: int) -> torch.Tensor:
    """Return each value as often as `times` says, `total` values in all."""
    if values.device.type == "cpu":
        repeated: torch.Tensor = torch.from_numpy(np.repeat(values.numpy(), times.numpy()))
        return repeated  # ten times as fast as torch's
    return torch.repeat_interleave(values, times, output_size=total)
