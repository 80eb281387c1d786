"""Which turns of which leaves a term is for, and what chains, forks and copies weigh."""

import torch

from arpo_verl.advantages.tree.nodes import TurnNodes
from arpo_verl.advantages.tree.term import Term
from arpo_verl.advantages.tree.tree_batch import TreeBatch


def is_of_fork(batch: TreeBatch, nodes: TurnNodes) -> tuple[torch.Tensor, torch.Tensor]:
    """Return of each run whether it is of a leaf that was started from the prompt, and whether it is a fork's own.

    What a fork shares with its parent is neither. Both have the shape (R,).

    Raises:
        ValueError: it is not known where leaves forked.
    """
    parents, fork_tokens = batch.known_forks()
    start = (nodes.piece_lengths.cumsum(0) - nodes.piece_lengths)[nodes.run_piece] % batch.response_mask.shape[1]
    is_chain = parents[nodes.run_row] < 0
    return is_chain, ~is_chain & (start >= fork_tokens[nodes.run_row])


def run_weights(batch: TreeBatch, nodes: TurnNodes, term: Term) -> torch.Tensor | None:
    """Return what a term weighs in each run, by its `where` and `once`; None for 1. Shape (R,), in double precision."""
    if term.where == "all" and not term.once:
        return None
    leaves = nodes.leaves[nodes.run_node]
    if term.where in ("chains", "forks"):
        is_chain, is_fork = is_of_fork(batch, nodes)
        weight = (is_chain if term.where == "chains" else is_fork).double()
    elif term.where == "all":
        weight = torch.ones_like(leaves)
    else:
        weight = ((leaves > 1) == (term.where == "shared")).double()
    return weight / leaves if term.once else weight


def separate_averages(batch: TreeBatch, nodes: TurnNodes, fork_weight: float) -> torch.Tensor:
    """Return the factor of each run with which one mean over all tokens is two (DEEP-GRPO, arXiv 2602.14169).

        mean over the chains' tokens + λ · mean over the forks' own tokens

    folded into advantages as T / T_chains and λ T / T_forks, T being the sampled tokens of the batch. What a fork
    shares with its parent, which the parent trains, gets 0. With `loss_agg_mode: token-mean`, and as far as all
    mini-batches of a step have the same shares of chains and forks. Shape (R,).

    Args:
        batch: `parents` and `fork_tokens` have to be known.
        nodes: of the batch.
        fork_weight: λ.
    """
    is_chain, is_fork = is_of_fork(batch, nodes)
    tokens = nodes.piece_lengths[nodes.run_piece].double()
    of_chains, of_forks = (tokens[one].sum().clamp(min=1) for one in (is_chain, is_fork))
    return tokens.sum() * (is_chain / of_chains + fork_weight * is_fork / of_forks)


def is_silent(nodes: TurnNodes) -> torch.Tensor:
    """Return of each run whether its turn has no siblings. Shape (R,)."""
    silent: torch.Tensor = nodes.children[nodes.parent[nodes.run_node]] == 1
    return silent
