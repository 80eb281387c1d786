"""Bounds between which the gradients of positive and of negative advantages balance (BAPO, arXiv 2510.18927).

From the search's start, the lower bound is raised, which silences negative tokens, and then the upper bound, which lets
more positive ones speak, until the positive tokens' share of the gradient is what is asked for, or both bounds are at
their ends. A token's part is its weight times δ|A|, or 0 where it is clipped.

Deviations. The released code measures shares of the loss's *value*, max(δ, l)|A|, by which a higher lower bound makes
the negative part larger; here it is the gradient's. The bounds of a mini-batch are found from the sums of the one
before it, over all micro-batches and ranks (`arpo_verl.losses.MiniBatchSums` says why not from its own); the first
mini-batch of a run, or of one that goes on from a checkpoint, has the search's start. Without negative or without
positive tokens there is nothing to balance, and where no bound makes a difference, as in a step's first mini-batch,
nothing is known: the bounds are those of the start. Shares are by tokens, as `token-mean`
weights them, whatever the `loss_agg_mode`.
"""

import math
from collections.abc import Mapping

import torch


def candidates(search: Mapping[str, float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the lower and the upper bounds that are tried, in order.

    Args:
        search: `low`, `low_end`, `high`, `high_end` and `step`.
    """
    return tuple(
        search[side] + search["step"] * torch.arange(_steps(search, side) + 1, dtype=torch.float64)
        for side in ("low", "high")
    )  # type: ignore[return-value]


def _steps(search: Mapping[str, float], side: str) -> int:
    return max(0, round((search[f"{side}_end"] - search[side]) / search["step"]))


def gradient_sums(
    ratio: torch.Tensor, advantages: torch.Tensor, dual: float, search: Mapping[str, float]
) -> torch.Tensor:
    """Return the size of the gradient of negative tokens for each lower bound, then of positive ones for each upper.

    Args:
        ratio: of each token, without gradient. Shape (batch, response_length), as the next.
        advantages: of each token, times its weight; 0 for one that does not count.
        dual: ratio above which negative tokens have no gradient.
        search: see `candidates`.

    Returns:
        Shape (lower bounds + upper bounds,), in double precision.
    """
    lows, highs = (bounds.to(ratio.device) for bounds in candidates(search))
    size = (ratio.double() * advantages.double().abs()).reshape(-1)
    flat, sign = ratio.double().reshape(-1), advantages.reshape(-1)
    negative = size * ((sign < 0) & (flat <= dual))
    positive = size * (sign > 0)
    # A negative token counts for all lower bounds up to its ratio, a positive one for all upper bounds from it on.
    below = torch.zeros(len(lows) + 1, dtype=torch.float64, device=ratio.device)
    below.index_add_(0, torch.bucketize(flat, lows, right=True), negative)
    above = torch.zeros(len(highs) + 1, dtype=torch.float64, device=ratio.device)
    above.index_add_(0, torch.bucketize(flat, highs), positive)
    return torch.cat([below.flip(0).cumsum(0).flip(0)[1:], above.cumsum(0)[:-1]])


def balanced_bounds(sums: torch.Tensor | None, search: Mapping[str, float]) -> tuple[float, float]:
    """Return the lower and the upper bound.

    Args:
        sums: as `gradient_sums` returns them, of a whole mini-batch; None where nothing is known.
        search: see `candidates`, and `share`, which the positive tokens are to have.
    """
    lows, highs = (bounds.tolist() for bounds in candidates(search))
    start = lows[0], highs[0]
    if sums is None:
        return start
    negative, positive = sums[: len(lows)].tolist(), sums[len(lows) :].tolist()
    if positive[-1] <= 0 or negative[0] <= 0:
        return start
    if math.isclose(negative[0], negative[-1]) and math.isclose(positive[0], positive[-1]):
        return start  # no ratio was outside of any of the bounds, as in a step's first mini-batch: nothing is known
    path = [(at, 0) for at in range(len(lows))] + [(len(lows) - 1, at) for at in range(1, len(highs))]
    for low, high in path:
        if positive[high] >= search["share"] * (positive[high] + negative[low]):
            return lows[low], highs[high]
    return lows[-1], highs[-1]
