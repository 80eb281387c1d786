"""What the loss `composed` logs of a micro-batch: verl's names, and more under `actor/`."""

import torch

from arpo_verl.losses.blocks.clip import Bounds, ClippedLosses
from arpo_verl.losses.blocks.ratio import Ratios


def loss_metrics(
    ratios: Ratios, clipped: ClippedLosses, found: Bounds | None, advantages: torch.Tensor, mask: torch.Tensor
) -> dict[str, float]:
    """Return clip fractions and the mean log-ratio, under verl's names and by the sign of the advantage.

    Of turns and sequences, also the share of tokens whose turn is clipped as a whole, and the mean size of the
    logarithm of a ratio.

    Args:
        ratios: of the micro-batch.
        clipped: its losses.
        found: bounds that were looked for.
        advantages: of each token. Shape (batch, response_length), as the next.
        mask: tokens that count.
    """
    is_silent = clipped.is_clipped | clipped.is_dual_clipped
    metrics = {
        "actor/pg_clipfrac": _mean(clipped.is_clipped, mask),
        "actor/pg_clipfrac_lower": _mean(clipped.is_dual_clipped, mask),
        "actor/ppo_kl": _mean(-ratios.log_of_token, mask),
        "actor/clipfrac_positive": _mean(is_silent, mask * (advantages > 0)),
        "actor/clipfrac_negative": _mean(is_silent, mask * (advantages < 0)),
    }
    if ratios.sets is not None:
        sets = ratios.sets
        sizes = sets.sizes
        whole = (sets.sums(is_silent) == sizes) & (sizes > 0)
        metrics["actor/clipped_as_a_whole"] = float((sizes * whole).sum() / sizes.sum().clamp(min=1))
        sizes_of_logs = sets.means(ratios.log_of_token).abs()
        metrics["actor/log_ratio_of_sets"] = float(sizes_of_logs.sum() / (sizes > 0).sum().clamp(min=1))
    if found is not None:
        metrics |= {"actor/bound_low": float(found.low), "actor/bound_high": float(found.high)}
    return metrics


def replay_share(
    losses: torch.Tensor, log_prob: torch.Tensor, mask: torch.Tensor, is_replay: torch.Tensor
) -> dict[str, float]:
    """Return the share of the gradient's size, token by token, that comes from replayed rows.

    Args:
        losses: of each token, with gradient. Shape (batch, response_length), as the others.
        log_prob: log-probabilities now, of which the losses were computed.
        mask: tokens that count.
        is_replay: tokens of replayed rows.
    """
    if not losses.requires_grad:
        return {"actor/replay_share": 0.0}
    [gradient] = torch.autograd.grad((losses * mask).sum(), log_prob, retain_graph=True)
    sizes = gradient.abs() * mask
    return {"actor/replay_share": float((sizes * (is_replay != 0)).sum() / sizes.sum().clamp(min=1e-12))}


def _mean(values: torch.Tensor, mask: torch.Tensor) -> float:
    return float((values.detach() * mask).sum() / mask.sum().clamp(min=1))
