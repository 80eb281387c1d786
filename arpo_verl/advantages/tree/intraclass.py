"""How alike the rewards of leaves with one root are: the intraclass correlation of one-way analysis of variance."""

import torch

from arpo_verl.advantages.tree.moments import Moments
from arpo_verl.advantages.tree.nodes import TurnNodes


def intraclass_correlation(nodes: TurnNodes, rewards: torch.Tensor) -> float | None:
    """Return ρ of the rewards of leaves below one root, pooled by summing numerators and denominators over the prompts.

    ρ = (MSB - MSW) / (MSB + (k0 - 1) MSW), with MSB the mean square between the roots of a prompt, MSW the one within
    them, and k0 the number of leaves of a root, (n - Σ n_g² / n) / (a - 1) where that varies. It is an estimate, so it
    may be below 0.

    Args:
        nodes: the trees.
        rewards: of each row, in double precision. Shape (batch,).

    Returns:
        ρ, or None where no prompt with several roots, one of them with several leaves, has rewards that differ.
    """
    rows = nodes.rows
    of_rows, end = rewards[rows], nodes.end[rows]
    roots = Moments.of(of_rows, nodes.root[end], nodes.nodes)
    group = Moments.of(of_rows, nodes.prompt[end], nodes.nodes)
    a = nodes.zeros().index_add(0, nodes.prompt, (roots.count > 0).double())
    within = nodes.zeros().index_add(0, nodes.prompt, roots.sum_of_squares)
    squares = nodes.zeros().index_add(0, nodes.prompt, roots.count**2)
    n = group.count
    has_trees = (a > 1) & (n > a)
    between = ((group.sum_of_squares - within) / (a - 1))[has_trees]
    inside = (within / (n - a))[has_trees]
    k0 = ((n - squares / n) / (a - 1))[has_trees]
    bottom = float((between + (k0 - 1) * inside).sum())
    return float((between - inside).sum()) / bottom if bottom > 0 else None
