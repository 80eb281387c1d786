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

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

PADDING = -1
"""The segment id of a position that holds no token."""
DIVISION = 8
"""Into how many parts a span of tokens is divided in search of a segment's beginning."""


def compute_arpo_advantage(  # noqa: PLR0913  the signature that users import
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: Sequence[object] | np.ndarray,
    segment_ids: torch.Tensor | None = None,
    mode: Literal["soft", "hard"] = "soft",
    norm_by_std: bool = True,
    epsilon: float = 1e-6,
    is_excluded: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the advantages of all leaves of a batch, and the returns, which equal them: there is no critic.

    Args:
        token_level_rewards: reward of each token; a leaf's reward is the sum over its row.
            Shape (batch, response_length).
        response_mask: 1 where the policy sampled the token, 0 for tool results and padding.
            Shape (batch, response_length).
        index: the prompt of each row: strings, numbers or whatever can be sorted. Length batch.
        segment_ids: two rows of one prompt share token t if and only if their ids are equal at t; -1 is padding.
            Shape (batch, response_length). Needed in hard mode, ignored in soft mode.
        mode: `soft` or `hard`.
        norm_by_std: divide by the group's standard deviation (GRPO) or not (Dr. GRPO, arXiv 2503.20783).
        epsilon: added to the standard deviation.
        is_excluded: rows that take no part in their group's mean and deviation nor in the mean over a shared token's
            leaves, and whose own advantage is 0, whatever their reward. Shape (batch,), bool.

    Returns:
        (advantages, returns), both of shape (batch, response_length), float, zero where `response_mask` is 0. The only
        leaf of a prompt keeps its reward as advantage, as in verl's `grpo`.

    Raises:
        ValueError: unknown mode, hard mode without `segment_ids`, or shapes that do not match.
    """
    _check(token_level_rewards, response_mask, index, segment_ids, mode)
    with torch.no_grad():
        group = _group_numbers(index, token_level_rewards.device)
        # In double precision: the rounding of equal rewards, over a standard deviation of almost 0, is no advantage.
        scores = token_level_rewards.sum(dim=-1).double()
        if is_excluded is None:
            is_excluded = torch.zeros_like(scores, dtype=torch.bool)
        counts = (~is_excluded).to(scores.dtype)
        scores = scores.masked_fill(is_excluded, 0.0)
        advantage = _group_relative(scores, group, counts, norm_by_std, epsilon).to(token_level_rewards.dtype)
        if mode == "soft":
            advantages = advantage.unsqueeze(-1) * response_mask
        else:
            assert segment_ids is not None
            advantages = _mean_over_leaves(advantage, ~is_excluded, segment_ids, group).mul_(response_mask)
    return advantages, advantages


def _check(
    rewards: torch.Tensor,
    mask: torch.Tensor,
    index: Sequence[object] | np.ndarray,
    segment_ids: torch.Tensor | None,
    mode: str,
) -> None:
    if mode not in ("soft", "hard"):
        raise ValueError(f"mode={mode!r}; expected 'soft' or 'hard'")
    if mode == "hard" and segment_ids is None:
        raise ValueError(
            "mode='hard' got segment_ids=None; expected the ids of every token: pass them or use mode='soft'"
        )
    shapes = {"token_level_rewards": rewards.shape, "response_mask": mask.shape}
    if segment_ids is not None:
        shapes["segment_ids"] = segment_ids.shape
    if rewards.dim() != 2 or len(set(shapes.values())) != 1 or len(index) != rewards.shape[0]:
        raise ValueError(
            f"got shapes { {name: tuple(shape) for name, shape in shapes.items()} } and {len(index)} indices; "
            f"expected one shape (batch, response_length) and batch indices"
        )


def _group_numbers(index: Sequence[object] | np.ndarray, device: torch.device) -> torch.Tensor:
    """Number the prompts from 0. Shape (batch,)."""
    _, numbers = np.unique(np.asarray(index), return_inverse=True)
    return torch.as_tensor(numbers.reshape(-1), dtype=torch.long, device=device)


def _group_relative(
    scores: torch.Tensor, group: torch.Tensor, counts: torch.Tensor, norm_by_std: bool, epsilon: float
) -> torch.Tensor:
    """Return each score minus its group's mean, over the group's (n - 1) standard deviation. Shape (batch,).

    `counts` is 1 for the rows that count in the statistics; the others' result is 0.
    """
    groups = int(group.max()) + 1 if len(group) else 0
    zeros = torch.zeros(groups, dtype=scores.dtype, device=scores.device)
    size = zeros.index_add(0, group, counts)
    mean = zeros.index_add(0, group, scores * counts) / size.clamp(min=1)
    is_single = size == 1
    mean = torch.where(is_single, zeros, mean)
    centred = (scores - mean[group]) * counts
    if not norm_by_std:
        return centred
    variance = zeros.index_add(0, group, centred**2) / (size - 1).clamp(min=1)
    std = torch.where(is_single, torch.ones_like(mean), variance.sqrt())
    return centred / (std[group] + epsilon)


def _mean_over_leaves(
    advantage: torch.Tensor, is_counted: torch.Tensor, segment_ids: torch.Tensor, group: torch.Tensor
) -> torch.Tensor:
    """Return, for each token, the mean advantage of the leaves that share it. Shape (batch, response_length).

    Works on runs of equal ids, of which there are few, instead of on tokens.
    """
    start = _run_starts(segment_ids)
    row = start // segment_ids.shape[1]
    # One number for each (prompt, segment): segments of different prompts may have the same id.
    run_ids = segment_ids.flatten()[start]
    segments = int(run_ids.max()) + 1 if len(run_ids) else 1
    _, run = torch.unique(group[row] * (segments + 1) + run_ids, return_inverse=True)
    zeros = torch.zeros(len(row), dtype=advantage.dtype, device=advantage.device)
    leaves = zeros.index_add(0, run, is_counted[row].to(zeros.dtype))
    mean = zeros.index_add(0, run, advantage[row]) / leaves.clamp(min=1)
    lengths = torch.diff(start, append=start.new_tensor([segment_ids.numel()]))
    return _repeat(mean[run], lengths, segment_ids.numel()).reshape(segment_ids.shape)


def _run_starts(segment_ids: torch.Tensor) -> torch.Tensor:
    """Return, in order, the positions in the flattened ids at which a run of equal ids begins.

    A leaf has a segment once, in one piece. So where two positions of a row have the same id, all between them have
    it. Spans whose edges differ are divided by `DIVISION` until they are two neighbours; the other ids are not read.
    """
    rows, width = segment_ids.shape
    flat = segment_ids.flatten()
    row_starts = torch.arange(rows, device=flat.device) * width
    division = torch.arange(DIVISION + 1, device=flat.device)
    span = DIVISION
    while span < width:
        span *= DIVISION
    left = row_starts
    while span > 1:
        span //= DIVISION
        row_end = left // width * width + width - 1
        points = torch.minimum(left.unsqueeze(1) + span * division, row_end.unsqueeze(1))
        ids = flat[points]
        left = points[:, :-1][ids[:, 1:] != ids[:, :-1]]
    return torch.cat([row_starts, left + 1]).sort().values


def _repeat(values: torch.Tensor, times: torch.Tensor, total: int) -> torch.Tensor:
    """Return each value as often as `times` says, `total` values in all."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.repeat(values.numpy(), times.numpy()))  # ten times as fast as torch's
    return torch.repeat_interleave(values, times, output_size=total)
