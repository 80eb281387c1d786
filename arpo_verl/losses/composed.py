"""PPO's policy loss with its parts to choose from: the level of the ratio, the clip, its bounds, weights, a penalty.

    L = agg( w · clip(A', δ) ) + penalty

`arpo.loss=composed arpo.loss_kwargs={ratio: turn, clip_low: 0.003, clip_high: 0.004}` is AT²PO's. The settings are
those of `arpo_verl.losses.blocks.settings.LossSettings`, and each block's file says where it comes from and how it
deviates. With none set it is verl's `vanilla` loss, value, gradient and metrics.
"""

from collections.abc import Mapping
from typing import Any

import torch
from verl.trainer.ppo.core_algos import agg_loss

from arpo_verl.losses import MiniBatchSums, Needs, needs_by_settings
from arpo_verl.losses.blocks.balance import balanced_bounds, gradient_sums
from arpo_verl.losses.blocks.band import band_excess, band_metrics
from arpo_verl.losses.blocks.clip import Bounds, ClippedLosses
from arpo_verl.losses.blocks.metrics import loss_metrics, replay_share
from arpo_verl.losses.blocks.ratio import Ratios
from arpo_verl.losses.blocks.settings import LossSettings
from arpo_verl.losses.blocks.token_weights import future_factor, gated_advantages, token_weights


def _needs(settings: Mapping[str, Any]) -> Needs:
    return LossSettings.of(settings).needs


@needs_by_settings(_needs)
def composed(  # noqa: PLR0913  verl's arguments, and what the settings may need
    old_log_prob: torch.Tensor,
    log_prob: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    loss_agg_mode: str,
    config: Any,
    rollout_is_weights: torch.Tensor | None = None,
    *,
    entropy: torch.Tensor | None = None,
    past_entropy: torch.Tensor | None = None,
    mini_batch_sums: MiniBatchSums | None = None,
    turn_ids: torch.Tensor | None = None,
    clip_scale_low: torch.Tensor | None = None,
    clip_scale_high: torch.Tensor | None = None,
    entropy_hat: torch.Tensor | None = None,
    row_weight: torch.Tensor | None = None,
    is_replay: torch.Tensor | None = None,
    **settings: Any,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss, aggregated as verl's, and its metrics (`arpo_verl.losses.blocks.metrics`).

    The first seven are verl's, the others as `arpo_verl.losses` says, or tensors of shape (batch, response_length)
    from the advantage; which of them have to be there depends on the settings.

    Raises:
        ValueError: a setting is not known, or what it needs is not there.
    """
    chosen = LossSettings.of(settings)
    filled: dict[str, Any] = {"entropy": entropy, "past_entropy": past_entropy, "mini_batch_sums": mini_batch_sums}
    filled |= {"clip_scale_low": clip_scale_low, "clip_scale_high": clip_scale_high, "entropy_hat": entropy_hat}
    missing = [name for name in chosen.needs.required if name in filled and filled[name] is None]
    if missing:
        raise ValueError(f"the loss `composed` got no {missing}; expected them by its settings {settings}")
    ratios = Ratios.of(log_prob, old_log_prob, response_mask, chosen.ratio, turn_ids)
    weights = token_weights(row_weight, rollout_is_weights, old_log_prob, chosen.max_probability)
    bounds = _bounds(chosen, config, filled)
    advantages = _credited(chosen, bounds, ratios, advantages, response_mask, filled)
    if chosen.clip == "balanced":
        weighted = advantages * response_mask * (1 if weights is None else weights)
        bounds = _balanced(chosen, bounds, ratios, weighted, filled["mini_batch_sums"])
    clipped = ClippedLosses.of(chosen.clip, advantages, ratios.ratio, log_prob, bounds)
    losses = clipped.losses if weights is None else clipped.losses * weights
    metrics = loss_metrics(ratios, clipped, bounds if chosen.clip == "balanced" else None, advantages, response_mask)
    if is_replay is not None:
        metrics |= replay_share(losses, log_prob, response_mask, is_replay)
    if chosen.entropy_band is not None:
        excess = band_excess(filled["entropy"], filled["past_entropy"], chosen.band["low"], chosen.band["high"])
        losses, metrics = losses + chosen.band["weight"] * excess, metrics | band_metrics(excess, response_mask)
    return agg_loss(losses, response_mask, loss_agg_mode, **config.global_batch_info), metrics


def _bounds(chosen: LossSettings, config: Any, filled: Mapping[str, Any]) -> Bounds:
    bounds = Bounds.of(chosen, config)
    if chosen.clip_scale == "entropy_hat":
        return bounds.by_entropy(filled["entropy_hat"])
    if chosen.clip_scale == "turn_signal":
        return bounds.scaled(filled["clip_scale_low"], filled["clip_scale_high"])
    return bounds


def _credited(
    chosen: LossSettings,
    bounds: Bounds,
    ratios: Ratios,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    filled: Mapping[str, Any],
) -> torch.Tensor:
    """Return the advantages of tokens after HAPO's gate and FIPO's factor."""
    if chosen.entropy_gate:
        advantages = gated_advantages(advantages, filled["entropy_hat"], ratios.ratio.detach(), bounds)
    if chosen.future_ratio is not None:
        advantages = advantages * future_factor(ratios.log_of_token, mask, chosen.future)
    return advantages


def _balanced(
    chosen: LossSettings, bounds: Bounds, ratios: Ratios, advantages: torch.Tensor, sums: MiniBatchSums
) -> Bounds:
    """Return the bounds of this mini-batch, and have its own sums counted for the next."""
    own = gradient_sums(ratios.ratio.detach(), advantages, bounds.dual, chosen.search)
    low, high = balanced_bounds(sums(own), chosen.search)
    return Bounds(low, high, bounds.dual)
