"""What multiplies a token's advantage or its loss. Nothing here has a gradient."""

from collections.abc import Mapping

import torch

from arpo_verl.losses.blocks.clip import Bounds


def gated_advantages(
    advantages: torch.Tensor, entropy_hat: torch.Tensor, ratio: torch.Tensor, bounds: Bounds
) -> torch.Tensor:
    """Return HAPO's advantages (arXiv 2509.16591, released code): A(1 + ĥ) for some tokens, A for the others.

    Uncertain tokens (ĥ > 0) have it outside of the neutral zone around ratio 1, certain ones inside.

    Args:
        advantages: A. Shape (batch, response_length), as the next two.
        entropy_hat: ĥ, -1 (most certain) to 1.
        ratio: of each token, without gradient.
        bounds: whose middle to 1 ends the zone.
    """
    is_neutral = bounds.neutral_zone(ratio)
    is_changed = torch.where(entropy_hat > 0, ~is_neutral, is_neutral)
    return torch.where(is_changed, advantages * (1 + entropy_hat), advantages)


def future_ratios(log_ratio: torch.Tensor, discount: float, low: float, high: float) -> torch.Tensor:
    """Return exp F_t between two bounds, F_t = Σ γ^(j-t) log δ_j over the tokens j from t to the row's end.

    Args:
        log_ratio: log δ, 0 where nothing was sampled. Shape (batch, response_length).
        discount: γ for each position, tool results included.
        low, high: the bounds.
    """
    total, width = log_ratio, log_ratio.shape[1]
    reach, factor = 1, discount
    while reach < width:  # `total` has the sum over the next `reach` tokens
        further = torch.nn.functional.pad(total[:, reach:], (0, reach))
        total = total + factor * further
        reach, factor = 2 * reach, factor * factor
    return total.exp().clamp(low, high)


def future_factor(log_ratio: torch.Tensor, mask: torch.Tensor, future: Mapping[str, float]) -> torch.Tensor:
    """Return the factor of advantages of APPO (arXiv 2606.12384) and FIPO, 1 + b · clip(exp F_t).

    It is constant under the gradient [the papers' text was not read for that].

    Args:
        log_ratio: log δ of each token, without gradient. Shape (batch, response_length).
        mask: tokens that count.
        future: `weight` b, `discount`, `low` and `high`.
    """
    ratios = future_ratios(log_ratio * mask, future["discount"], future["low"], future["high"])
    return 1 + future["weight"] * ratios


def token_weights(
    row_weight: torch.Tensor | None,
    rollout_is_weights: torch.Tensor | None,
    old_log_prob: torch.Tensor,
    max_probability: float | None,
) -> torch.Tensor | None:
    """Return what multiplies each token's loss, none of it in the denominators; None for 1 everywhere.

    Args:
        row_weight: of each token's row, such as that of a replayed one.
        rollout_is_weights: verl's rollout correction, where it is on.
        old_log_prob: log-probabilities before the update.
        max_probability: tokens with at least this probability weigh 0 (SPO, arXiv 2505.23564); they stay in the
            denominators, so that the gradient of the others is what it is without the setting.
    """
    factors = [factor for factor in (row_weight, rollout_is_weights) if factor is not None]
    if max_probability is not None:
        factors.append((old_log_prob.exp() < max_probability).to(old_log_prob.dtype))
    product: torch.Tensor | None = None
    for factor in factors:
        product = factor if product is None else product * factor
    return product
