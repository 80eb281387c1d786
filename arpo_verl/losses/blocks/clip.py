"""Bounds on importance ratios, and what a loss is outside of them.

For a token with advantage A and ratio δ, bounds l and h, and a dual clip c (arXiv 1912.09729), the gradient of minus
the loss is A ∇log π times

                     A > 0, δ < l   A > 0, δ > h   A < 0, δ < l   A < 0, δ > h   A < 0, δ > c
    ppo, balanced         δ              0              0              δ              0
    grad_preserving       δ              h              0              δ              0
    cispo                 l              h              l              h              h

and δ between the bounds. `grad_preserving` has PPO's value (AEPO, arXiv 2510.14545; GPPO, arXiv 2508.07629): tokens
above the upper bound, often the uncertain ones that begin to be explored, keep the gradient that they have at it.
`cispo` (arXiv 2506.13585) weights log π by the clipped ratio.
"""

from dataclasses import dataclass
from typing import Any

import torch

from arpo_verl.losses.blocks.settings import LossSettings

NONE = float("inf")


@dataclass(frozen=True)
class Bounds:
    """The bounds on ratios: numbers, or tensors of shape (batch, response_length)."""

    low: torch.Tensor | float
    high: torch.Tensor | float
    dual: float
    """The largest ratio of a negative advantage that has a gradient; infinite for none."""

    @classmethod
    def of(cls, settings: LossSettings, config: Any) -> "Bounds":
        """Return 1 - ε and 1 + ε from the settings, or else from verl's actor.

        Args:
            settings: the loss's.
            config: verl's actor configuration.
        """
        low = config.clip_ratio if config.clip_ratio_low is None else config.clip_ratio_low
        high = config.clip_ratio if config.clip_ratio_high is None else config.clip_ratio_high
        dual = config.clip_ratio_c if settings.dual_clip is None else settings.dual_clip or NONE
        low = low if settings.clip_low is None else settings.clip_low
        high = high if settings.clip_high is None else settings.clip_high
        return cls(1 - low, 1 + high, dual)

    def scaled(self, low: torch.Tensor, high: torch.Tensor) -> "Bounds":
        """Return bounds whose distances from 1 are multiplied, token by token."""
        return Bounds(1 - (1 - self.low) * low, 1 + (self.high - 1) * high, self.dual)

    def by_entropy(self, entropy_hat: torch.Tensor) -> "Bounds":
        """Return HAPO's bounds (arXiv 2509.16591): a certain token may fall further, an uncertain one rise further.

        Args:
            entropy_hat: -1 (most certain) to 1 of each token. Shape (batch, response_length).
        """
        return self.scaled(1 - entropy_hat.clamp(max=0), 1 + entropy_hat.clamp(min=0))

    def neutral_zone(self, ratio: torch.Tensor) -> torch.Tensor:
        """Return whether each ratio is nearer to 1 than to the bound on its side."""
        return (ratio > (1 + self.low) / 2) & (ratio < (1 + self.high) / 2)


@dataclass(frozen=True)
class ClippedLosses:
    """Losses of tokens and which of them the bounds have changed, each of shape (batch, response_length)."""

    losses: torch.Tensor
    """With gradient."""
    is_clipped: torch.Tensor
    """Ratios outside of the bounds, as far as those count for the advantage's sign."""
    is_dual_clipped: torch.Tensor
    """Negative advantages above the dual clip."""

    @classmethod
    def of(
        cls, clip: str, advantages: torch.Tensor, ratio: torch.Tensor, log_prob: torch.Tensor, bounds: Bounds
    ) -> "ClippedLosses":
        """Return the losses of a micro-batch.

        Args:
            clip: of `CLIPS`.
            advantages: of each token.
            ratio: of each token, with gradient.
            log_prob: log-probabilities now, with gradient.
            bounds: on the ratio.
        """
        detached = ratio.detach()
        if clip == "cispo":
            kept = _clamp(detached, bounds)
            return cls(-kept * advantages * log_prob, kept != detached, torch.zeros_like(kept, dtype=torch.bool))
        clipped = _clamp(ratio, bounds)
        if clip == "grad_preserving":
            # The bound itself, with the gradient of the logarithm of the ratio.
            clipped = torch.where(detached > bounds.high, bounds.high * (ratio / detached), clipped)
        plain, changed = -advantages * ratio, -advantages * clipped
        losses = torch.maximum(plain, changed)
        is_clipped = changed.detach() > plain.detach()
        is_negative = advantages < 0
        if bounds.dual == NONE:
            return cls(losses, is_clipped, torch.zeros_like(is_negative))
        limit = -advantages * bounds.dual
        is_dual_clipped = is_negative & (losses.detach() > limit)
        return cls(torch.where(is_negative, torch.minimum(losses, limit), losses), is_clipped, is_dual_clipped)


def _clamp(ratio: torch.Tensor, bounds: Bounds) -> torch.Tensor:
    if isinstance(bounds.low, torch.Tensor) or isinstance(bounds.high, torch.Tensor):
        low, high = (torch.as_tensor(one, dtype=ratio.dtype, device=ratio.device) for one in (bounds.low, bounds.high))
        return torch.clamp(ratio, low, high)
    return torch.clamp(ratio, bounds.low, bounds.high)
