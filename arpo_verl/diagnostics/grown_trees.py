"""A step's trees as tensors over turns, from the records of their leaves."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch

from arpo_verl.advantages import TreeBatch
from arpo_verl.advantages.tree.arguments import PADDING, group_numbers
from arpo_verl.advantages.tree.nodes import TurnNodes
from arpo_verl.rollout.leaf_record import LeafRecord


class _Row(NamedTuple):
    """A leaf's segments, filled up to one length."""

    ids: list[int]
    is_sampled: list[int]
    sampled_tokens: list[int]
    calls: list[int]

    @classmethod
    def of(cls, record: LeafRecord, width: int) -> "_Row":
        segments, gap = record.segments, width - len(record.segments)
        calls = Counter(call.segment for call in record.calls)
        return cls(
            [one.id for one in segments] + [PADDING] * gap,
            [int(one.is_sampled) for one in segments] + [0] * gap,
            [one.tokens if one.is_sampled else 0 for one in segments] + [0] * gap,
            [calls[one.id] for one in segments] + [0] * gap,
        )


@dataclass(frozen=True)
class GrownTrees:
    """The leaves of a step, one a row. Rows that are excluded, or whose reward is not finite, are in no tree.

    Shapes: rows (B,), segments (B, S) with S those of the longest row, nodes as in `TurnNodes`.
    """

    records: Sequence[LeafRecord]
    prompts: Sequence[int]
    """Number of each row's prompt, from 0."""
    rewards: torch.Tensor
    """Of each row, in double precision; 0 of one that does not count. Shape (B,)."""
    nodes: TurnNodes
    """Of a batch in which each segment is one token."""
    node_at: torch.Tensor
    """The turn of each segment; -1 for a tool result, padding, and all of a row that does not count. Shape (B, S)."""
    tokens: torch.Tensor
    """Sampled tokens of each segment, 0 for a tool result. Shape (B, S)."""
    calls: torch.Tensor
    """Executed calls that each segment is the result of. Shape (B, S)."""

    @classmethod
    def of(cls, records: Sequence[LeafRecord], prompts: Sequence[Any], rewards: Sequence[float]) -> "GrownTrees":
        """Return the trees of a step's leaves.

        Args:
            records: of the leaves, in any order.
            prompts: the prompt of each.
            rewards: of each; one that is not finite leaves its row out.
        """
        width = max((len(record.segments) for record in records), default=0)
        rows = [_Row.of(record, width) for record in records]
        ids, sampled, tokens, calls = (
            torch.tensor([row[column] for row in rows], dtype=torch.long).reshape(len(rows), width)
            for column in range(4)
        )
        given = torch.tensor(rewards, dtype=torch.float64).reshape(len(rows))
        is_excluded = torch.tensor([record.is_excluded for record in records], dtype=torch.bool) | ~given.isfinite()
        prompt = group_numbers(prompts, len(rows), given.device)
        nodes = TurnNodes.of(TreeBatch(torch.zeros_like(ids).double(), sampled, prompt, is_excluded, ids))
        node_at = torch.full((len(rows) * width,), -1)
        start = nodes.piece_lengths.cumsum(0) - nodes.piece_lengths
        node_at[start[nodes.run_piece]] = nodes.run_node
        rewards_of_rows = given.masked_fill(is_excluded, 0.0)
        return cls(records, prompt.tolist(), rewards_of_rows, nodes, node_at.reshape(ids.shape), tokens, calls)

    @cached_property
    def turn_tokens(self) -> torch.Tensor:
        """Sampled tokens of each turn; 0 of a prompt. Shape (nodes,)."""
        return self._of_nodes(self.tokens)

    @cached_property
    def tokens_to_end(self) -> torch.Tensor:
        """Sampled tokens from the prompt to the end of each turn; 0 of a prompt. Shape (nodes,)."""
        return self._of_nodes(self.tokens.cumsum(1))

    @cached_property
    def calls_to_end(self) -> torch.Tensor:
        """Calls from the prompt to what follows each turn, those that it makes included; 0 of a prompt."""
        calls_before = self.calls.cumsum(1) - self.calls
        own = self._of_nodes(calls_before)  # before the turn; its own come with the result that follows it
        nodes = self.nodes
        rows = nodes.rows
        at_end = nodes.zeros().index_add(0, nodes.end[rows], self.calls.sum(1)[rows].double())
        at_end = at_end / nodes.ending.clamp(min=1)
        after = nodes.zeros().scatter_reduce(0, nodes.parent[: nodes.turns], own[: nodes.turns], "amax")
        result = torch.where(nodes.ending > 0, at_end, after)
        result[nodes.turns :] = 0.0
        return result

    def _of_nodes(self, values: torch.Tensor) -> torch.Tensor:
        """Return a value of each turn, from segments of which all copies have the same."""
        is_turn = self.node_at >= 0
        return self.nodes.zeros().index_copy(0, self.node_at[is_turn], values[is_turn].double())

    def mean_over_children(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean of a value of leaves below each node, in which each child of a node counts once.

        That is an unbiased estimate of its expectation at the node, however the number of forks depends on what is
        known there.

        Args:
            values: of each row. Shape (B,).
        """
        nodes = self.nodes
        ending = self.ending(values)
        means = nodes.zeros()
        for level in nodes.levels:
            means[level] = ((nodes.sum_over_children(means) + ending) / nodes.children.clamp(min=1))[level]
        return means

    def ending(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum of a value of the rows that end at each node."""
        rows = self.nodes.rows
        return self.nodes.zeros().index_add(0, self.nodes.end[rows], values[rows].double())
