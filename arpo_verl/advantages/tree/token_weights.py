"""Weights of tokens by their entropy, and of rows by how improbable they are. Computed once over the whole batch."""

import math

import torch

from arpo_verl.advantages.tree.moments import Moments
from arpo_verl.advantages.tree.nodes import TurnNodes
from arpo_verl.advantages.tree.tree_batch import TreeBatch

LOWEST_ENTROPY = 1e-6
"""What smaller entropies count as, whose logarithm would be rounding noise; as in HAPO's released code."""


def entropy_z_weights(batch: TreeBatch, strength: float) -> torch.Tensor:
    """Return 1 + a · z(H) of each token (AEPO, arXiv 2510.14545), z over all sampled tokens of the batch.

    Deviation: the released code takes z over a micro-batch, by whose size its weights then change.

    Args:
        batch: `entropies` have to be known. Rows that do not count are in no mean.
        strength: a.

    Returns:
        Shape (batch, response_length); z is 0 where all entropies are equal.
    """
    entropies = batch.known_entropies().double()
    sampled = entropies[_is_counted(batch)]
    if len(sampled) < 2:
        return torch.ones_like(entropies)
    deviation = sampled.std()
    z = torch.where(deviation > 0, (entropies - sampled.mean()) / torch.where(deviation > 0, deviation, 1.0), 0.0)
    return 1 + strength * z


def entropy_hat(batch: TreeBatch, nodes: TurnNodes, quantile: float) -> torch.Tensor:
    """Return ĥ of each token: the log of its entropy above or below a quantile, -1 (most certain) to 1 (HAPO).

    Positive differences are divided by the largest, negative ones by the size of the smallest, over the tokens of the
    batch, of which those that leaves share count once (arXiv 2509.16591).

    Deviation: the released code divides negative differences by the smallest itself, which turns their sign, and takes
    a micro-batch for the batch.

    Args:
        batch: `entropies` have to be known.
        nodes: of the batch.
        quantile: whose token is the one with ĥ = 0; of tokens between two, the lower.

    Returns:
        Shape (batch, response_length); 0 where nothing was sampled.
    """
    logs = batch.known_entropies().double().clamp(min=LOWEST_ENTROPY).log()
    first = torch.full((nodes.nodes,), len(nodes.run_node), device=logs.device).scatter_reduce(
        0, nodes.run_node, torch.arange(len(nodes.run_node), device=logs.device), "amin"
    )
    is_first = torch.zeros(len(nodes.run_node), dtype=torch.float64, device=logs.device)
    is_first[first[: nodes.turns]] = 1
    distinct = logs[nodes.spread(is_first, batch.response_mask.shape, torch.bool)]
    if not len(distinct):
        return torch.zeros_like(logs)
    pivot = distinct.kthvalue(math.floor(quantile * (len(distinct) - 1)) + 1).values
    above, below = (distinct.max() - pivot).clamp(min=1e-12), (pivot - distinct.min()).clamp(min=1e-12)
    differences = logs - pivot
    hats = torch.where(differences > 0, differences / above, differences / below).clamp(-1, 1)
    return hats.masked_fill(~_is_counted(batch), 0.0)


def novelty_of_rows(batch: TreeBatch, weight: float) -> torch.Tensor:
    """Return λ(1 - η) of each row, or 0 for a likely one (XRPO, arXiv 2510.06672). Shape (batch,).

    η = exp(s - s̄), s the mean log-probability of a row's sampled tokens and s̄ its mean over the prompt's rows that
    count. [After a description; the paper's text and code were not read.]

    Args:
        batch: `log_probs` have to be known.
        weight: λ.
    """
    mask = batch.response_mask != 0
    log_probs = batch.known_log_probs().masked_fill(~mask, 0.0)
    means = log_probs.sum(dim=1, dtype=torch.float64) / mask.sum(dim=1).clamp(min=1)
    rows = (batch.is_counted & mask.any(dim=1)).nonzero().flatten()
    group = Moments.of(means[rows], batch.prompt[rows], int(batch.prompt.max()) + 1 if len(batch.prompt) else 0)
    found = (weight * (1 - (means - group.mean[batch.prompt]).exp())).clamp(min=0)
    is_counted = torch.zeros_like(means, dtype=torch.bool)
    is_counted[rows] = True
    return torch.where(is_counted, found, 0.0)


def _is_counted(batch: TreeBatch) -> torch.Tensor:
    """Return the sampled tokens of rows that count. Shape (batch, response_length)."""
    return (batch.response_mask != 0) & batch.is_counted.unsqueeze(1)
