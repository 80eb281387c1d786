"""The turns of a batch as nodes of its trees: what is shared is one node, whatever the number of its copies.

A turn is a run of sampled tokens of one segment; tool results belong to no node. The turns before it are its
ancestors, the prompt is the ancestor of all. A row that ends where others go on (a fork that ended before it sampled)
ends *at* that node and counts as one more child of it. Only rows that count are in the trees.

All per-node numbers have the shape (nodes + prompts,): turns first, in no particular order, then one node for each
prompt. The cost is in the runs; tokens are read once, to find these.
"""

from dataclasses import dataclass
from functools import cached_property

import torch

from arpo_verl.advantages.tree.shared_tokens import cut_into_runs, repeat_runs
from arpo_verl.advantages.tree.tree_batch import TreeBatch


@dataclass(frozen=True)
class TurnNodes:
    """The trees of a batch. R runs of sampled tokens of rows that count, N nodes (turns, then prompts), B rows."""

    run_row: torch.Tensor
    """Shape (R,), in the order of the flattened batch, as the next."""
    run_node: torch.Tensor
    run_piece: torch.Tensor
    """Which of all pieces of the batch a run is. Shape (R,)."""
    piece_lengths: torch.Tensor
    """Tokens of all pieces, sampled or not, which make up the flattened batch."""
    parent: torch.Tensor
    """Node of the turn before, or the prompt's; of a prompt itself. Shape (N,)."""
    depth: torch.Tensor
    """Turns from the prompt; 0 of a prompt, 1 of a root's first turn. Shape (N,)."""
    prompt: torch.Tensor
    """Node of the prompt of each node. Shape (N,)."""
    end: torch.Tensor
    """Node at which each row ends; -1 for one that does not count. Shape (B,)."""
    turns: int
    """How many of the nodes are turns."""

    @classmethod
    def of(cls, batch: TreeBatch) -> "TurnNodes":
        """Return the nodes of a batch.

        Raises:
            ValueError: it has no `segment_ids`, or rows that share a turn do not share the turns before it.
        """
        ids = batch.known_segment_ids()
        pieces, lengths = cut_into_runs(ids, batch.response_mask, batch.prompt)
        is_turn = (batch.response_mask.reshape(-1)[pieces.start] != 0) & batch.is_counted[pieces.row]
        piece = is_turn.nonzero().flatten()
        row = pieces.row[piece]
        _, node = torch.unique(pieces.sharers[piece], return_inverse=True)
        turns = int(node.max()) + 1 if len(node) else 0
        prompts = int(batch.prompt.max()) + 1 if len(batch.prompt) else 0
        number = _numbers_in_row(row)
        before = torch.where(number == 0, turns + batch.prompt[row], torch.roll(node, 1))
        own = torch.arange(turns, turns + prompts, device=ids.device)
        parent = torch.cat([_same_in_all_copies(node, before, turns, "turns before it"), own])
        depth = torch.cat([_same_in_all_copies(node, number + 1, turns, "number of turns"), torch.zeros_like(own)])
        prompt = torch.cat([_same_in_all_copies(node, turns + batch.prompt[row], turns, "prompt"), own])
        end = torch.where(batch.is_counted, turns + batch.prompt, -1)
        is_last = torch.cat([row[1:] != row[:-1], row.new_ones(min(len(row), 1), dtype=torch.bool)])
        end[row[is_last]] = node[is_last]
        return cls(row, node, piece, lengths, parent, depth, prompt, end, turns)

    @property
    def nodes(self) -> int:
        """N."""
        return len(self.parent)

    @cached_property
    def rows(self) -> torch.Tensor:
        """Rows that count. Shape (leaves,)."""
        return (self.end >= 0).nonzero().flatten()

    @cached_property
    def levels(self) -> list[torch.Tensor]:
        """The nodes of each depth, the deepest first, prompts last."""
        deepest = int(self.depth.max()) if self.nodes else -1
        return [(self.depth == depth).nonzero().flatten() for depth in range(deepest, -1, -1)]

    @cached_property
    def path(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Pairs (row, node) of all that is on the way from the prompt to a row's end, the prompt included."""
        own = self.prompt[self.end[self.rows]]
        return torch.cat([self.run_row, self.rows]), torch.cat([self.run_node, own])

    @cached_property
    def leaves(self) -> torch.Tensor:
        """d, the leaves below each node. Shape (N,)."""
        return self.sum_over_leaves(torch.ones_like(self.end, dtype=torch.float64))

    @cached_property
    def children(self) -> torch.Tensor:
        """k, the children of each node: turns that follow it, and rows that end at it beside others. Shape (N,)."""
        ones = torch.ones(self.nodes, dtype=torch.float64, device=self.parent.device)
        return self.sum_over_children(ones) + self.ending

    @cached_property
    def ending(self) -> torch.Tensor:
        """Rows that end at each node, in double precision. Shape (N,)."""
        return self.zeros().index_add(0, self.end[self.rows], torch.ones_like(self.rows, dtype=torch.float64))

    @cached_property
    def is_last_turn(self) -> torch.Tensor:
        """Nodes that no turn follows. Shape (N,)."""
        return self.children == self.ending

    @cached_property
    def root(self) -> torch.Tensor:
        """First turn of each node's path; of a prompt itself. Shape (N,)."""
        root = torch.arange(self.nodes, device=self.parent.device)
        for level in reversed(self.levels):
            deep = level[self.depth[level] > 1]
            root[deep] = root[self.parent[deep]]
        return root

    def zeros(self) -> torch.Tensor:
        return torch.zeros(self.nodes, dtype=torch.float64, device=self.parent.device)

    def sum_over_leaves(self, values: torch.Tensor) -> torch.Tensor:
        """Return, for each node, the sum of a value of the rows below it; `values` has the shape (B,)."""
        row, node = self.path
        return self.zeros().index_add(0, node, values[row])

    def sum_over_children(self, values: torch.Tensor) -> torch.Tensor:
        """Return, for each node, the sum of a value of the turns that follow it; `values` has the shape (N,)."""
        turn = slice(0, self.turns)
        return self.zeros().index_add(0, self.parent[turn], values[turn])

    def spread(self, values: torch.Tensor, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        """Return one value of each run at all of its tokens, 0 elsewhere.

        Args:
            values: shape (R,).
            shape: (batch, response_length).
            dtype: of the result.
        """
        by_piece = torch.zeros(len(self.piece_lengths), dtype=dtype, device=values.device)
        by_piece[self.run_piece] = values.to(dtype)
        return repeat_runs(by_piece, self.piece_lengths, shape)


def _numbers_in_row(row: torch.Tensor) -> torch.Tensor:
    """Number the runs of each row from 0; `row` is sorted."""
    position = torch.arange(len(row), device=row.device)
    is_first = torch.ones_like(row, dtype=torch.bool)
    is_first[1:] = row[1:] != row[:-1]
    first = torch.where(is_first, position, 0).cummax(0).values if len(row) else position
    numbers: torch.Tensor = position - first
    return numbers


def _same_in_all_copies(node: torch.Tensor, values: torch.Tensor, turns: int, what: str) -> torch.Tensor:
    """Return the value that all copies of a turn have.

    Raises:
        ValueError: they differ.
    """
    of_node = values.new_zeros(turns)
    of_node[node] = values
    if not bool((of_node[node] == values).all()):
        raise ValueError(
            f"rows that share a turn by their segment_ids differ in the {what}; expected ids that are equal only where "
            f"all tokens before are shared too: number segments by tree, as arpo_verl.algorithms.segments does"
        )
    return of_node
