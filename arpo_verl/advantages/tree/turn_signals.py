"""Values of turns that depend on how many turns follow, or that turns have themselves."""

import torch

from arpo_verl.advantages.tree.moments import Moments
from arpo_verl.advantages.tree.nodes import TurnNodes
from arpo_verl.advantages.tree.term import Term
from arpo_verl.advantages.tree.terms import TreeTerms, at_least_tiny


def discounted_outcome(tree: TreeTerms, discount: float) -> torch.Tensor:
    """Return, for each node, the mean over its leaves of x times γ to the number of turns that follow it there.

    Args:
        tree: the batch's.
        discount: γ.
    """
    nodes = tree.nodes
    row, node = nodes.path
    turns_after = nodes.depth[nodes.end[row]] - nodes.depth[node]
    weights = tree.weights
    sums = nodes.zeros().index_add(0, node, weights[row] * tree.x[row] * discount**turns_after)
    return sums / at_least_tiny(nodes.sum_over_leaves(weights))


def discounted_signal(tree: TreeTerms, term: Term) -> torch.Tensor:
    """Return the term of each node from its turns' signals, against the baseline first, then summed to the end.

    Args:
        tree: the batch's; the signal's tensor has to be known.
        term: with a signal of turns.

    Raises:
        ValueError: the batch has no such signal.
    """
    values, has_value = normalised_signal(tree, term)
    if term.discount is None:
        return values
    nodes = tree.nodes
    sums = _sums_of_rows(nodes, values, term.discount)
    if term.divides_by_sqrt_turns:
        sums = sums / _sums_of_rows(nodes, has_value.double(), 1.0).clamp(min=1).sqrt()
    sums = nodes.zeros().index_add(0, nodes.run_node, sums * tree.weights[nodes.run_row])
    return sums / at_least_tiny(nodes.sum_over_leaves(tree.weights))


def normalised_signal(tree: TreeTerms, term: Term) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each node's signal against its baseline, over its scale, 0 where it has none; and which nodes have one.

    A turn that several leaves share counts once. Both have the shape (nodes,).

    Args:
        tree: the batch's.
        term: its baseline is `turn`, the other turns of the prompt with the same number, `joint`, all its turns, or
            `none`; its scale `none`, `std` or `std_pop`. A set of one turn gives 0.

    Raises:
        ValueError: the batch has no such signal.
    """
    nodes = tree.nodes
    values, has_value = _signals(tree, term)
    if term.baseline != "none" and nodes.nodes:
        deepest = int(nodes.depth.max()) + 1
        sets = nodes.prompt if term.baseline == "joint" else nodes.prompt * deepest + nodes.depth
        moments = Moments.of(values[has_value], sets[has_value], nodes.nodes * deepest)
        divisor = moments.std(term.scale == "std")[sets] + tree.epsilon if term.scale != "none" else 1.0
        is_compared = has_value & (moments.count[sets] > 1)
        differences = torch.where(is_compared, values - moments.mean[sets], 0.0)
        # Over a deviation of 0, which without an epsilon equal signals have, the differences are 0.
        values = torch.where(differences == 0, 0.0, differences / divisor)
    return values, has_value


def _signals(tree: TreeTerms, term: Term) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the signal of each node, the mean of what its leaves say, and which nodes have one."""
    batch, nodes = tree.batch, tree.nodes
    given = batch.known_info_gains() if term.signal == "info_gain" else batch.known_turn_rewards()
    turn = nodes.depth[nodes.run_node] - 1
    if given.shape[1]:
        values = given.double()[nodes.run_row, turn.clamp(max=given.shape[1] - 1)]
    else:
        values = torch.zeros_like(turn, dtype=torch.float64)
    known = (turn < given.shape[1]) & values.isfinite()
    if term.ends_with_score:
        is_last = nodes.run_node == nodes.end[nodes.run_row]
        goes_on = nodes.sum_over_children(torch.ones_like(tree.v))[nodes.run_node] > 0  # for other rows
        values = torch.where(is_last & ~(known & goes_on), tree.x[nodes.run_row], values)
        known = known | is_last
    count = nodes.zeros().index_add(0, nodes.run_node[known], torch.ones_like(values[known]))
    sums = nodes.zeros().index_add(0, nodes.run_node[known], values[known])
    return sums / count.clamp(min=1), count > 0


def _sums_of_rows(nodes: TurnNodes, values: torch.Tensor, discount: float) -> torch.Tensor:
    """Return Σ γ^(j-k) g_j over the turns j from each run k to its row's end. Shape (R,)."""
    own = values[nodes.run_node]
    follows = torch.zeros_like(nodes.run_row, dtype=torch.bool)
    follows[:-1] = nodes.run_row[1:] == nodes.run_row[:-1]
    sums = own.clone()
    longest = int(nodes.depth.max()) if nodes.nodes else 0
    for _ in range(longest - 1):
        sums = own + discount * torch.where(follows, torch.roll(sums, -1), 0.0)
    return sums
