"""The blocks that advantages of the family are made of: a leaf's score, a node's value, a baseline, a scale.

A term is (value - baseline) / scale. All is computed in double precision, over runs and not over tokens. Sets of one
member and sets whose members are all equal give 0; an excluded leaf is in no set.
"""

from dataclasses import dataclass, field
from functools import cached_property

import torch

from arpo_verl.advantages.tree.intraclass import intraclass_correlation
from arpo_verl.advantages.tree.moments import Moments
from arpo_verl.advantages.tree.nodes import TurnNodes
from arpo_verl.advantages.tree.tree_batch import TreeBatch

SCORES = ("raw", "centred", "loo", "z", "z_pop")
VALUES = ("leaf_mean", "child_mean", "child_entropy", "child_entropy_softmax")


@dataclass(frozen=True)
class TreeTerms:
    """Values, baselines and scales on the trees of one batch."""

    batch: TreeBatch
    score: str = "raw"
    """x of a leaf: its reward (`raw`), less the group's mean (`centred`), less that of the others (`loo`), over the
    group's standard deviation of n - 1 (`z`) or n (`z_pop`)."""
    value: str = "leaf_mean"
    """V of a node: the mean of x over its leaves, the mean of V over its children, or that weighted by the entropy of
    the children's turns (`child_entropy`, `child_entropy_softmax`)."""
    multiplicity: str = "copies"
    """`copies`: each leaf counts once; `inverse`: by one over the product of the numbers of children on its path, with
    mean 1 in its prompt, which is unbiased where forks depend on the state."""
    correlation: float | None = None
    """ρ of the baseline `shrunk`; None estimates it over the batch."""
    epsilon: float = 1e-6
    nodes: TurnNodes = field(init=False)

    def __post_init__(self) -> None:
        for name, choices in (("score", SCORES), ("value", VALUES), ("multiplicity", ("copies", "inverse"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r}; expected one of {', '.join(choices)}: change it")
        object.__setattr__(self, "nodes", TurnNodes.of(self.batch))

    @cached_property
    def x(self) -> torch.Tensor:
        """The score of each leaf; 0 of a row that does not count. Shape (batch,)."""
        rewards, rows = self.batch.rewards, self.nodes.rows
        if self.score == "raw":
            return rewards
        prompt = self.batch.prompt[rows]
        group = Moments.of(rewards[rows], prompt, self._prompts, self.weights[rows])
        scores = rewards[rows] - group.mean[prompt]
        count = group.count[prompt]
        if self.score == "loo":
            scores = scores * count / (count - 1).clamp(min=1)
        elif self.score in ("z", "z_pop"):
            scores = _over(scores, group.std(self.score == "z")[prompt] + self.epsilon)
        return torch.zeros_like(rewards).index_copy(0, rows, scores)

    @cached_property
    def weights(self) -> torch.Tensor:
        """Weight of each leaf, mean 1 in its prompt. Shape (batch,)."""
        nodes, ones = self.nodes, torch.ones_like(self.batch.rewards)
        if self.multiplicity == "copies":
            return ones
        share = torch.ones(nodes.nodes, dtype=torch.float64, device=ones.device)
        for level in reversed(nodes.levels):
            deep = level[nodes.depth[level] > 0]
            share[deep] = share[nodes.parent[deep]] / nodes.children[nodes.parent[deep]]
        rows = nodes.rows
        end = nodes.end[rows]
        # Where others go on, or several rows end at one node, each ending row is a child of it.
        own = torch.where(nodes.children[end] > 1, share[end] / nodes.children[end], share[end])
        prompt = self.batch.prompt[rows]
        mean = Moments.of(own, prompt, self._prompts).mean[prompt]
        return ones.index_copy(0, rows, own / mean)

    @cached_property
    def _lowest(self) -> torch.Tensor:
        """The lowest x of each node's prompt. Means are taken above it, so that those of equal scores are not rounded
        apart. Shape (nodes,)."""
        nodes = self.nodes
        x, prompt = self.x[nodes.rows], nodes.prompt[nodes.end[nodes.rows]]
        return nodes.zeros().scatter_reduce(0, prompt, x, "amin", include_self=False)[nodes.prompt]

    @cached_property
    def _above(self) -> torch.Tensor:
        """x above the lowest of the prompt; 0 of a row that does not count. Shape (batch,)."""
        nodes = self.nodes
        above = self.x[nodes.rows] - self._lowest[nodes.end[nodes.rows]]
        return torch.zeros_like(self.x).index_copy(0, nodes.rows, above)

    @property
    def _prompts(self) -> int:
        return self.nodes.nodes - self.nodes.turns

    @cached_property
    def v(self) -> torch.Tensor:
        """V of each node. Shape (nodes,)."""
        return self._values_above() + self._lowest

    def _values_above(self) -> torch.Tensor:
        nodes, x = self.nodes, self._above
        if self.value == "leaf_mean":
            weights = self.weights
            return nodes.sum_over_leaves(x * weights) / at_least_tiny(nodes.sum_over_leaves(weights))
        v = nodes.zeros()
        ending = v.index_add(0, nodes.end[nodes.rows], x[nodes.rows])
        child_weights = self._child_weights()
        for level in nodes.levels:
            v = torch.where(nodes.depth == nodes.depth[level[0]], self._from_children(v, ending, child_weights), v)
        return v

    def _from_children(self, v: torch.Tensor, ending: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        nodes = self.nodes
        plain = (nodes.sum_over_children(v) + ending) / nodes.children.clamp(min=1)
        if weights is None:
            return plain
        total = nodes.sum_over_children(weights)
        weighted = nodes.sum_over_children(weights * v) / at_least_tiny(total)
        # A row that ends at the node has no turn of its own below it, and so no entropy to be weighted by.
        return torch.where((total > 0) & (nodes.ending == 0), weighted, plain)

    def _child_weights(self) -> torch.Tensor | None:
        """Weight of each node among its siblings; None where all have the same."""
        if self.value == "child_mean":
            return None
        entropy = self.turn_entropies
        if self.value == "child_entropy":
            return entropy
        highest = self.nodes.zeros().scatter_reduce(0, self.nodes.parent, entropy, "amax", include_self=False)
        return (entropy - highest[self.nodes.parent]).exp()

    @cached_property
    def turn_entropies(self) -> torch.Tensor:
        """H of each turn: the mean of -log p over its tokens, in nats; 0 of a prompt. Shape (nodes,)."""
        nodes = self.nodes
        sums = -self.batch.known_log_probs().double().reshape(-1).cumsum(0)
        end = nodes.piece_lengths.cumsum(0)[nodes.run_piece]
        length = nodes.piece_lengths[nodes.run_piece]
        total = sums[end - 1] - torch.where(end > length, sums[(end - length - 1).clamp(min=0)], 0.0)
        return nodes.zeros().index_copy(0, nodes.run_node, total / length)

    def of_leaves(self, baseline: str, scale: str) -> torch.Tensor:
        """Return the term of each leaf, for all of its turns. Shape (batch,).

        Args:
            baseline: one of `LEAF_BASELINES`.
            scale: `none`, `std` or `std_pop`, over the set that makes the baseline.
        """
        rows, x = self.nodes.rows, self.x
        if baseline == "none":
            return x
        if baseline.startswith("ancestors"):
            return self.against_ancestors("equal" if baseline == "ancestors" else "group_size")
        if baseline in ("group_tokens", "chains", "forks"):
            members, sets, counts = leaf_sets(self, baseline)
            values = None if counts is None else counts[members]
            moments = Moments.of(x[members], sets[members], int(sets.max()) + 1, values, counts is not None)
            term = _over(x - moments.mean[sets], self._divisor(moments, scale)[sets])
            number = torch.bincount(sets[members], minlength=int(sets.max()) + 1)
            return torch.where((number[sets] > 1) & (self.nodes.end >= 0), term, 0.0)
        sets = self.batch.prompt[rows] if baseline == "group" else self.nodes.root[self.nodes.end[rows]]
        moments = Moments.of(x[rows], sets, self.nodes.nodes, self.weights[rows])
        term = _over(x[rows] - moments.mean[sets], self._divisor(moments, scale)[sets])
        is_alone = moments.count[sets] == 1
        is_only_leaf = self._sizes_of_prompts[self.batch.prompt[rows]] == 1
        # As in verl's `grpo`, the only leaf of a prompt keeps its score; the only one of a tree has no tree to compare.
        term = torch.where(is_alone, torch.where(is_only_leaf & (baseline == "group"), x[rows], 0.0), term)
        return torch.zeros_like(x).index_copy(0, rows, term)

    @cached_property
    def _sizes_of_prompts(self) -> torch.Tensor:
        """Rows of each prompt, those that do not count included."""
        return torch.bincount(self.batch.prompt, minlength=self._prompts)

    def against_ancestors(self, weighting: str) -> torch.Tensor:
        """Return each leaf's x less the mean of x below each of its ancestors that has more than one leaf, on average.

        Args:
            weighting: of the ancestors, `equal` or `group_size` (their numbers of leaves).
        """
        nodes = self.nodes
        mean = nodes.sum_over_leaves(self._above) / nodes.leaves.clamp(min=1)
        row, node = nodes.path
        weight = nodes.leaves if weighting == "group_size" else torch.ones_like(nodes.leaves)
        weight = torch.where(nodes.leaves > 1, weight, 0.0)[node]
        zeros = torch.zeros_like(self.x)
        total = zeros.index_add(0, row, weight)
        return zeros.index_add(0, row, weight * (self._above[row] - mean[node])) / at_least_tiny(total)

    def of_nodes(self, v: torch.Tensor, baseline: str, scale: str) -> torch.Tensor:
        """Return the term of each node. Shape (nodes,); of prompts it means nothing.

        Args:
            v: a value of each node.
            baseline: one of `NODE_BASELINES`.
            scale: `none`, `std` or `std_pop`, over the set that makes the baseline, or `sqrt_leaves`.
        """
        nodes = self.nodes
        if scale == "sqrt_leaves":
            return self.of_nodes(v, baseline, "none") / nodes.leaves.clamp(min=1).sqrt()
        if baseline == "none":
            return v
        if baseline in ("root", "parent"):
            return v - v[nodes.prompt if baseline == "root" else nodes.parent]
        if baseline == "shrunk":
            return self._shrunk(v)
        moments, sets = self._sets(v, baseline)
        count = moments.count[sets]
        term = _over(v - moments.mean[sets], self._divisor(moments, scale)[sets])
        if baseline == "siblings":
            term = term * count / (count - 1).clamp(min=1)
        return torch.where(count > 1, term, 0.0) if baseline != "group" else term

    def _sets(self, v: torch.Tensor, baseline: str) -> tuple[Moments, torch.Tensor]:
        """Return the moments of the sets that make a baseline, and the set of each node."""
        nodes = self.nodes
        turn = torch.arange(nodes.turns, device=v.device)
        rows = nodes.rows
        if baseline == "group":
            return Moments.of(
                self.x[rows], nodes.prompt[nodes.end[rows]], nodes.nodes, self.weights[rows]
            ), nodes.prompt
        if baseline == "turn":
            deepest = int(nodes.depth.max()) + 1
            sets = nodes.prompt * deepest + nodes.depth
            return Moments.of(v[turn], sets[turn], nodes.nodes * deepest), sets
        # Children: turns, and rows that end where others go on.
        is_child = nodes.children[nodes.end[rows]] > nodes.ending[nodes.end[rows]]
        ended = rows[is_child]
        members = torch.cat([v[turn], self.x[ended]])
        return Moments.of(members, torch.cat([nodes.parent[turn], nodes.end[ended]]), nodes.nodes), nodes.parent

    def _divisor(self, moments: Moments, scale: str) -> torch.Tensor:
        if scale == "none":
            return torch.ones_like(moments.mean)
        return moments.std(scale == "std") + self.epsilon

    def _shrunk(self, v: torch.Tensor) -> torch.Tensor:
        """Return V less the mix of siblings and other roots of least variance: w = (k-1)ρ / (1 + (k-2)ρ)."""
        nodes = self.nodes
        siblings = self.of_nodes(v, "siblings", "none")
        k = nodes.children[nodes.parent]
        rho = self.intraclass_correlation() if self.correlation is None else self.correlation
        w = (k - 1) * rho / (1 + (k - 2) * rho).clamp(min=1e-12)
        sums = nodes.sum_over_leaves(self._above)
        others = nodes.leaves[nodes.prompt] - nodes.leaves[nodes.root]
        mean_of_others = (sums[nodes.prompt] - sums[nodes.root]) / others.clamp(min=1) + self._lowest
        w = torch.where(others > 0, w, 1.0)
        mixed = w * siblings + (1 - w) * (v - mean_of_others)
        return torch.where(nodes.depth > 1, mixed, siblings)

    def intraclass_correlation(self, is_clipped: bool = True) -> float:
        """Return ρ of the rewards of leaves below one root, by one-way analysis of variance pooled over the prompts.

        Args:
            is_clipped: to 0 to 1, as a weight has to be.
        """
        rho = intraclass_correlation(self.nodes, self.batch.rewards) or 0.0
        return min(max(rho, 0.0), 1.0) if is_clipped else rho


def leaf_sets(tree: TreeTerms, baseline: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Return the rows that make a baseline of leaves, the set of each row, and how often each counts (None: once).

    Args:
        tree: the batch's.
        baseline: the mean over all sampled tokens of the prompt (`group_tokens`; HAPO, arXiv 2509.16591), over the
            leaves that were started from the prompt (`chains`), or over those that forked from the same leaf at the
            same token (`forks`; DEEP-GRPO, arXiv 2602.14169).
    """
    batch, rows = tree.batch, tree.nodes.rows
    if baseline == "group_tokens":
        counts = (batch.response_mask != 0).sum(dim=1).double()
        return rows, batch.prompt, counts
    parents, fork_tokens = batch.known_forks()
    is_fork = parents[rows] >= 0
    if baseline == "chains":
        return rows[~is_fork], batch.prompt, None
    places = (parents + 1) * (batch.response_mask.shape[1] + 1) + fork_tokens
    sets = torch.unique(torch.where(parents >= 0, places, -1 - batch.prompt), return_inverse=True)[1]
    return rows[is_fork], sets, None


def _over(values: torch.Tensor, divisor: torch.Tensor) -> torch.Tensor:
    return torch.where(divisor > 0, values / torch.where(divisor > 0, divisor, 1.0), 0.0)


def at_least_tiny(values: torch.Tensor) -> torch.Tensor:
    """Return sums of weights to divide by, with 1 for those of nothing."""
    return torch.where(values > 0, values, 1.0)
