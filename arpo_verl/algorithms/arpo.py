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

import torch

PADDING = -1
"""The segment id of a position that holds no token."""


def compute_arpo_advantage(  # noqa: PLR0913  the signature that users import
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: Sequence[object],
    segment_ids: torch.Tensor | None = None,
    mode: Literal["soft", "hard"] = "soft",
    norm_by_std: bool = True,
    epsilon: float = 1e-6,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the advantages of all leaves of a batch, and the returns, which equal them: there is no critic.

    Args:
        token_level_rewards: reward of each token; a leaf's reward is the sum over its row.
            Shape (batch, response_length).
        response_mask: 1 where the policy sampled the token, 0 for tool results and padding.
            Shape (batch, response_length).
        index: the prompt of each row, anything hashable. Length batch.
        segment_ids: two rows of one prompt share token t if and only if their ids are equal at t; -1 is padding.
            Shape (batch, response_length). Needed in hard mode, ignored in soft mode.
        mode: `soft` or `hard`.
        norm_by_std: divide by the group's standard deviation (GRPO) or not (Dr. GRPO, arXiv 2503.20783).
        epsilon: added to the standard deviation.

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
        scores = token_level_rewards.double().sum(dim=-1)
        advantage = _group_relative(scores, group, norm_by_std, epsilon).to(token_level_rewards.dtype)
        advantages = advantage.unsqueeze(-1) * response_mask
        if mode == "hard":
            assert segment_ids is not None
            advantages = _mean_over_copies(advantages, segment_ids, group) * response_mask
    return advantages, advantages


def _check(
    rewards: torch.Tensor,
    mask: torch.Tensor,
    index: Sequence[object],
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


def _group_numbers(index: Sequence[object], device: torch.device) -> torch.Tensor:
    """Number the prompts 0, 1, ... in order of appearance. Shape (batch,)."""
    numbers: dict[object, int] = {}
    return torch.tensor([numbers.setdefault(prompt, len(numbers)) for prompt in index], dtype=torch.long, device=device)


def _group_relative(scores: torch.Tensor, group: torch.Tensor, norm_by_std: bool, epsilon: float) -> torch.Tensor:
    """Return each score minus its group's mean, over the group's (n - 1) standard deviation. Shape (batch,)."""
    groups = int(group.max()) + 1 if len(group) else 0
    size = torch.zeros(groups, dtype=scores.dtype, device=scores.device).index_add_(0, group, torch.ones_like(scores))
    mean = torch.zeros_like(size).index_add_(0, group, scores) / size
    is_single = size == 1
    mean = torch.where(is_single, torch.zeros_like(mean), mean)
    centred = scores - mean[group]
    if not norm_by_std:
        return centred
    variance = torch.zeros_like(size).index_add_(0, group, centred**2) / (size - 1).clamp(min=1)
    std = torch.where(is_single, torch.ones_like(mean), variance.sqrt())
    return centred / (std[group] + epsilon)


def _mean_over_copies(advantages: torch.Tensor, segment_ids: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """Return, for each token, the mean of `advantages` over all copies of that token. Shape (batch, response_length).

    Copies of a token are the rows of the same prompt that have the same segment at the same position.
    """
    position = torch.arange(segment_ids.shape[1], device=segment_ids.device).expand_as(segment_ids)
    is_token = segment_ids != PADDING
    # One number for each (prompt, segment, position): segments of different prompts may have the same id.
    segments = int(segment_ids.max()) + 1 if segment_ids.numel() else 0
    token = (group.unsqueeze(-1) * max(segments, 1) + segment_ids) * segment_ids.shape[1] + position
    _, token = torch.unique(token[is_token], return_inverse=True)
    copies = torch.bincount(token).to(advantages.dtype)
    total = torch.zeros_like(copies).index_add_(0, token, advantages[is_token])
    shared = advantages.clone()
    shared[is_token] = (total / copies)[token]
    return shared
