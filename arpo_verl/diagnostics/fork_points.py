"""What is known of each place at which a leaf could fork, once the leaves below it have their rewards."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from arpo_verl.diagnostics.grown_trees import GrownTrees
from arpo_verl.rollout.fork_outcome import ForkOutcome
from arpo_verl.rollout.leaf_record import LeafRecord
from arpo_verl.rollout.tree import Decision


@dataclass(frozen=True)
class ForkPoints:
    """Turns after which a decision was made or leaves have forked. All shapes (points,).

    Left out are those below which no leaf counts, and those that no decision was asked about because the tree was full.
    """

    node: torch.Tensor
    children: torch.Tensor
    """Paths that leave a point and have leaves that count; 1 where nothing has forked."""
    variance: torch.Tensor
    """Unbiased estimate of the variance of a leaf's reward, given the way to here; NaN where nothing has forked."""
    total_variance: torch.Tensor
    """The same given the prompt alone; NaN of a prompt with one root."""
    tokens_before: torch.Tensor
    """Sampled tokens from the prompt to here."""
    tokens_after: torch.Tensor
    """Those of one leaf from here to its end, in the mean."""
    calls_before: torch.Tensor
    calls_after: torch.Tensor
    places: torch.Tensor
    """Leaves of the prompt that are forks or top-ups, over the points of the prompt with a decision of their own."""
    decisions: Sequence[Decision | None]
    """The decision here; None of none, and of several, of which none alone has made the forks."""

    @classmethod
    def of(cls, trees: GrownTrees) -> "ForkPoints":
        """Return the fork points of a step's trees."""
        nodes = trees.nodes
        decisions = _decisions(trees)
        has_siblings = nodes.children > 1
        has_forked = has_siblings & (nodes.depth > 0)
        is_point = has_forked.clone()
        is_point[list(decisions)] = True
        node = is_point.nonzero().flatten()
        variance = torch.where(has_siblings, variances_below(trees), torch.nan)
        ends = trees.nodes.rows
        all_tokens = torch.zeros_like(trees.rewards).index_copy(0, ends, trees.tokens.sum(1)[ends].double())
        all_calls = torch.zeros_like(trees.rewards).index_copy(0, ends, trees.calls.sum(1)[ends].double())
        tokens, calls = trees.tokens_to_end, trees.calls_to_end
        made = [one[0] if len(one) == 1 else None for one in (decisions.get(at, []) for at in node.tolist())]
        places = nodes.zeros()
        for record, prompt in zip(trees.records, trees.prompts, strict=True):
            places[nodes.turns + prompt] += record.parent is not None or record.is_top_up
        has_decision = torch.tensor([float(one is not None) for one in made], dtype=torch.float64)
        deciding = nodes.zeros().index_add(0, nodes.prompt[node], has_decision)
        return cls(
            node=node,
            children=nodes.children[node],
            variance=variance[node],
            total_variance=variance[nodes.prompt[node]],
            tokens_before=tokens[node],
            tokens_after=(trees.mean_over_children(all_tokens) - tokens)[node],
            calls_before=calls[node],
            calls_after=(trees.mean_over_children(all_calls) - calls)[node],
            places=(places / deciding.clamp(min=1))[nodes.prompt[node]],
            decisions=made,
        )

    @property
    def has_forked(self) -> torch.Tensor:
        return self.children > 1

    def outcomes(self) -> list[ForkOutcome]:
        """Return what a rule may learn from: the points with a decision."""
        costs = (self.tokens_before, self.calls_before, self.tokens_after, self.calls_after)
        numbers = torch.stack([self.variance, self.total_variance, *costs, self.places], dim=1).tolist()
        return [
            ForkOutcome(decision, _known(of[0]), _known(of[1]), (of[2], of[3]), (of[4], of[5]), of[6])
            for decision, of in zip(self.decisions, numbers, strict=True)
            if decision is not None
        ]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def variances_below(trees: GrownTrees) -> torch.Tensor:
    """Return `unbiased_variances_below`, at least 0, which each is as a number of its own."""
    return unbiased_variances_below(trees).clamp(min=0.0)


def unbiased_variances_below(trees: GrownTrees) -> torch.Tensor:
    """Return, for each node, the variance of the reward of a leaf below it; it means nothing at one with one child.

    The mean of r² less the mean of products of the rewards of two different children, which do not depend on one
    another given the way to here: Σ_c m_c(r²) / k - ((Σ_c m_c)² - Σ_c m_c²) / (k (k - 1)), m_c the mean below child c
    in which each child of a node counts once. Unbiased, also where children fork in their turn and by what is known
    there, and so below 0 now and then; where each child is a single leaf, the sample variance.
    """
    nodes = trees.nodes
    centre = trees.mean_over_children(trees.rewards)[nodes.prompt[nodes.end.clamp(min=0)]]
    rewards = torch.where(nodes.end >= 0, trees.rewards - centre, 0.0)  # smaller numbers are rounded less
    mean, square = trees.mean_over_children(rewards), trees.mean_over_children(rewards**2)
    k = nodes.children
    total = nodes.sum_over_children(mean) + trees.ending(rewards)
    total_of_squares = nodes.sum_over_children(mean**2) + trees.ending(rewards**2)
    products = (total**2 - total_of_squares) / (k * (k - 1)).clamp(min=1)
    return square - products


def _decisions(trees: GrownTrees) -> dict[int, list[Decision]]:
    """Return the decisions after each turn that has leaves which count."""
    node_of: dict[tuple[int, int], int] = {}
    for record, prompt, nodes in zip(trees.records, trees.prompts, trees.node_at.tolist(), strict=True):
        turns = zip(record.segments, nodes, strict=False)
        node_of.update({(prompt, segment.id): node for segment, node in turns if node >= 0})
    found: dict[int, list[Decision]] = {}
    for record, prompt in zip(trees.records, trees.prompts, strict=True):
        for decision, segment in _places(record):
            node = node_of.get((prompt, segment))
            if node is not None:
                found.setdefault(node, []).append(decision)
    return found


def _places(record: LeafRecord) -> Iterator[tuple[Decision, int]]:
    """Yield a leaf's decisions, each with the id of the last sampled segment before it."""
    for decision in record.decisions:
        if decision.fork_token is None:
            continue
        tokens, last = 0, None
        for segment in record.segments:
            tokens += segment.tokens
            if tokens > decision.fork_token:
                break
            last = segment.id if segment.is_sampled else last
        if last is not None:
            yield decision, last
