"""The penalty for entropies outside of a band around that of the past (EPO, arXiv 2509.22576)."""

import torch


def band_excess(entropy: torch.Tensor, past_entropy: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Return by how much entropies lie outside of low to high times the past's, 0 where there is no past.

    Args:
        entropy: of each token, in nats, with gradient. Shape (batch, response_length).
        past_entropy: in nats, or NaN where there is no past. Shape ().
        low, high: the band's ends as multiples of the past's.

    Returns:
        Shape (batch, response_length), in nats, with gradient outside of the band.
    """
    if bool(past_entropy.isnan()):
        return torch.zeros_like(entropy)
    excess: torch.Tensor = torch.relu(entropy - high * past_entropy) + torch.relu(low * past_entropy - entropy)
    return excess


def band_metrics(excess: torch.Tensor, mask: torch.Tensor) -> dict[str, float]:
    """Return the share of tokens outside of the band."""
    share = ((excess.detach() > 0) * mask).sum() / mask.sum().clamp(min=1)
    return {"actor/entropy_outside_band": float(share)}
