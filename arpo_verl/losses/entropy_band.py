"""A policy loss with a penalty for tokens whose entropy leaves a band around that of the past (EPO, arXiv 2509.22576).

    L = L_PG + weight * mean over tokens of ( relu(H - high * h) + relu(low * h - H) )

H is a token's entropy, h the mean entropy of all past steps. EPO's loss is this one with `weight` = λβ, together with
verl's own bonus for entropy, `actor_rollout_ref.actor.entropy_coeff` = λ.

Deviations: the released code's penalty is a constant outside of the band and has no gradient; this one has. Its weights
that change with the phase of training are left out. In the first step there is no past, and no penalty.

`composed` has the same penalty (`entropy_band`) for losses of PPO's kind; this one adds it to any that verl knows.
"""

from typing import Any

import torch
from verl.trainer.ppo.core_algos import agg_loss, get_policy_loss_fn

from arpo_verl.losses.blocks.band import band_excess, band_metrics


def entropy_band(  # noqa: PLR0913  verl's arguments and settings
    old_log_prob: torch.Tensor,
    log_prob: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    loss_agg_mode: str,
    config: Any,
    rollout_is_weights: torch.Tensor | None = None,
    *,
    entropy: torch.Tensor,
    past_entropy: torch.Tensor,
    weight: float = 1e-4,
    low: float = 0.5,
    high: float = 1.5,
    base: str = "vanilla",
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Return the loss and the metrics of the policy loss `base`, and the share of tokens outside of the band.

    Args:
        old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, rollout_is_weights: verl's.
        entropy: of each token, in nats, with gradient. Shape (batch, response_length).
        past_entropy: h, in nats, or NaN where there is no past. Shape ().
        weight: of the penalty; the released code has λβ = 0.001 · 0.1.
        low, high: the band's ends as multiples of h.
        base: the policy loss that the penalty is added to, one that verl knows by name.
    """
    loss, metrics = get_policy_loss_fn(base)(
        old_log_prob=old_log_prob,
        log_prob=log_prob,
        advantages=advantages,
        response_mask=response_mask,
        loss_agg_mode=loss_agg_mode,
        config=config,
        rollout_is_weights=rollout_is_weights,
    )
    excess = band_excess(entropy, past_entropy, low, high)
    penalty = agg_loss(excess, response_mask, loss_agg_mode, **config.global_batch_info)
    return loss + weight * penalty, metrics | band_metrics(excess, response_mask)
