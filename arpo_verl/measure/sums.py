"""What each prompt's tree adds to the estimates: numbers whose means over prompts they are functions of.

Each child of a node counts once (`GrownTrees.mean_over_children`), so that a prompt's numbers are unbiased however the
number of forks depended on what was seen before them. A root is a path from the prompt; the share of roots that a turn
stands for is Π 1 / children along its path.

The variance below a fork is `variances_below`'s. Points that could have forked and have not are represented by those
that did, each weighted by one over the probability that its rule gave it, as in the metric `tree/lift`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from arpo_verl.diagnostics import ForkPoints, GrownTrees
from arpo_verl.diagnostics.fork_points import unbiased_variances_below
from arpo_verl.measure.trees import in_seconds

UNITS = ("tokens", "calls", "seconds")
FEWEST_FORKS = 8
"""Prompts with a fork after so many results that a variance there is estimated from."""

Values = npt.NDArray[Any]
Sums = Mapping[str, Values]
"""A number of each prompt by name. Shape (prompts,) each."""


@dataclass(frozen=True)
class PromptSums:
    """The sums of a run's prompts, and what is fixed for all of them."""

    sums: Sums
    depths: tuple[int, ...]
    """Numbers of results after which enough prompts have forks."""
    units: tuple[str, ...]
    prompts: int
    leaves: int
    """M: the most leaves that a prompt has."""
    forks: int
    """Fork points with two leaves or more below them."""


def prompt_sums(trees: GrownTrees) -> PromptSums:
    """Return the sums of trees; prompts without a leaf that counts are left out.

    Args:
        trees: of the record.
    """
    forks = _Forks.of(trees)
    nodes, kept = trees.nodes, forks.kept
    costs = _costs(trees)
    depths = forks.depths()
    sums = _of_prompts(trees, forks, {unit: whole for unit, (whole, _) in costs.items()})
    goes_on = forks.is_turn & ~nodes.is_last_turn
    for depth in depths:
        here = goes_on & (nodes.depth == depth)
        forked = forks.has_forked & here
        sums[f"reach/{depth}"] = forks.by_prompt(forks.share, here)
        sums[f"forked/{depth}"] = forks.by_prompt(forks.weight, forked)
        sums[f"forked_variance/{depth}"] = forks.by_prompt(forks.weight * forks.variance, forked)
        for unit, (_, after) in costs.items():
            sums[f"{unit}_after/{depth}"] = forks.by_prompt(forks.share * after, here)
    for name, chosen in forks.classes().items():
        sums[f"weight/{name}"] = forks.by_prompt(forks.weight, chosen)
        sums[f"weighted_variance/{name}"] = forks.by_prompt(forks.weight * forks.variance, chosen)
    most = int(nodes.leaves[nodes.turns :].max()) if len(kept) else 0
    return PromptSums(sums, depths, tuple(costs), len(kept), most, int(forks.has_forked.sum()))


@dataclass(frozen=True)
class _Forks:
    """The forks of trees, as numbers of each node. Shape (nodes,), but for `kept`."""

    trees: GrownTrees
    kept: torch.Tensor
    """Numbers of the prompts that have a leaf."""
    share: torch.Tensor
    weight: torch.Tensor
    """0 where nothing has forked."""
    change: torch.Tensor
    """Of entropy; NaN where it is not known."""
    variance: torch.Tensor

    @classmethod
    def of(cls, trees: GrownTrees) -> "_Forks":
        share = _shares(trees)
        weight, change = _weights(trees, share)
        kept = (trees.nodes.children[trees.nodes.turns :] > 0).nonzero().flatten()
        return cls(trees, kept, share, weight, change, unbiased_variances_below(trees))

    @property
    def has_forked(self) -> torch.Tensor:
        return self.weight > 0

    @property
    def is_turn(self) -> torch.Tensor:
        return torch.arange(self.trees.nodes.nodes) < self.trees.nodes.turns

    @property
    def prompt(self) -> torch.Tensor:
        return self.trees.nodes.prompt - self.trees.nodes.turns

    def by_prompt(self, values: torch.Tensor, chosen: torch.Tensor) -> Values:
        """Return the sum over the chosen nodes of each prompt that is kept."""
        prompts = self.trees.nodes.nodes - self.trees.nodes.turns
        total = torch.zeros(prompts, dtype=torch.float64).index_add(0, self.prompt[chosen], values[chosen])
        return np.asarray(total[self.kept])

    def depths(self) -> tuple[int, ...]:
        """Return the numbers of results after which enough prompts have forks."""
        depth = self.trees.nodes.depth
        return tuple(
            one
            for one in sorted(set(depth[self.has_forked].tolist()))
            if len(set(self.prompt[self.has_forked & (depth == one)].tolist())) >= FEWEST_FORKS
        )

    def classes(self) -> dict[str, torch.Tensor]:
        """Return which forks are to be compared with which."""
        is_late = self.has_forked & (self.trees.nodes.depth > 1)
        known = self.has_forked & self.change.isfinite()
        found = {"late": is_late, "early": self.has_forked & ~is_late, "known": known}
        if bool(known.any()):
            found["uncertain"] = known & (self.change > self.change[known].median())
        return found


def _of_prompts(trees: GrownTrees, forks: _Forks, wholes: Mapping[str, torch.Tensor]) -> dict[str, Values]:
    """Return what is known of prompts whatever has forked."""
    nodes, tokens = trees.nodes, trees.turn_tokens
    roots = forks.kept + nodes.turns
    has_roots = nodes.children[roots] > 1
    is_silent = nodes.children[nodes.parent] == 1
    return {
        "variance": np.asarray(torch.where(has_roots, forks.variance[roots], 0.0)),
        "has_variance": np.asarray(has_roots.double()),
        "sampled": forks.by_prompt(tokens, forks.is_turn),
        "silent": forks.by_prompt(tokens * is_silent, forks.is_turn),
        **{unit: np.asarray(whole[roots]) for unit, whole in wholes.items()},
    }


def _shares(trees: GrownTrees) -> torch.Tensor:
    """Return which share of a prompt's roots each node stands for; 1 for a prompt. Shape (nodes,)."""
    nodes = trees.nodes
    share = nodes.zeros()
    share[nodes.turns :] = 1.0
    for level in reversed(nodes.levels):
        deep = level[nodes.depth[level] > 0]
        parent = nodes.parent[deep]
        share[deep] = share[parent] / nodes.children[parent]
    return share


def _costs(trees: GrownTrees) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return by unit the cost of a leaf below each node from the prompt on, and that after the node's result."""
    tokens, calls = _whole_and_after(trees)
    costs = {"tokens": tokens, "calls": calls}
    timed = in_seconds(trees)
    if timed is not None:
        sampling, calling = _whole_and_after(timed)
        costs["seconds"] = (sampling[0] + calling[0], sampling[1] + calling[1])
    return costs


def _whole_and_after(trees: GrownTrees) -> list[tuple[torch.Tensor, torch.Tensor]]:
    found = []
    for of_segments, before in ((trees.tokens, trees.tokens_to_end), (trees.calls, trees.calls_to_end)):
        whole = trees.mean_over_children(of_segments.sum(1).double())
        found.append((whole, whole - before))
    return found


def _weights(trees: GrownTrees, share: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weight of each fork and the change of entropy there.

    The weight is 0 where nothing has forked, the change NaN where it is not known. Both (nodes,).
    """
    nodes = trees.nodes
    weight, change = nodes.zeros(), torch.full_like(share, torch.nan)
    points = ForkPoints.of(trees)
    for node, decision, children in zip(points.node.tolist(), points.decisions, points.children.tolist(), strict=True):
        if children < 2:
            continue
        probability = decision.fork_probability if decision is not None else None
        if probability is not None and probability <= 0:
            continue
        weight[node] = share[node] / (1.0 if probability is None else probability)
        if decision is not None:
            seen = decision.entropy_change if decision.entropy_change is not None else decision.entropy
            change[node] = torch.nan if seen is None else seen
    return weight, change
