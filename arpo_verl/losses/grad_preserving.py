"""PPO's clipped loss that keeps a gradient above the upper bound (AEPO, arXiv 2510.14545; GPPO, arXiv 2508.07629).

It is `composed` with `clip: grad_preserving`, under a name that needs no settings: verl's own key, in whose group there
is no place for any, can choose it.
"""

from typing import Any

import torch

from arpo_verl.losses.composed import composed


def grad_preserving(  # noqa: PLR0913  verl's arguments
    old_log_prob: torch.Tensor,
    log_prob: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    loss_agg_mode: str,
    config: Any,
    rollout_is_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss, aggregated as verl's, and its metrics; the arguments are verl's."""
    given = (old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, rollout_is_weights)
    return composed(*given, clip="grad_preserving")
