"""The turns of a tree that a round may sample again, each of them once, and what a rule may judge them by.

To sample a turn again is to fork where it began: at the end of the tool result before it, or at the prompt. A turn that
several leaves share belongs to the leaf that sampled it. Turns without a sampled token, and turns after a call of a
tool whose state can't be copied, are left out; the latter still count as children of their fork points.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from arpo_verl.rollout.tree import Leaf, Segment, TurnSnapshot


@dataclass(frozen=True)
class ForkHistory:
    """The forks at and before a fork point, for penalties."""

    siblings: int
    """Turns that have begun at the fork point, all of its children."""
    consecutive: int
    """Tool results immediately before it on the path that were forked at, one after the other. The prompt is none."""
    above: int
    """All tool results before it on the path that were forked at."""


@dataclass(frozen=True)
class LeafBelow:
    """A finished leaf whose path has a turn."""

    leaf: Leaf
    turns: int
    """Sampled turns of the leaf's path, the answer included."""


@dataclass(frozen=True)
class TurnPoint:
    """A turn that may be sampled again."""

    leaf: Leaf
    """The leaf that sampled it. Read-only, but for its `rule_state`."""
    snapshot: TurnSnapshot
    segment: Segment
    """The turn's tokens."""
    history: ForkHistory
    below: tuple[LeafBelow, ...]
    """The leaves that have it, its own first."""
    root: int
    """Number of the leaf's root."""

    @property
    def fork_point(self) -> int | None:
        """Id of the last segment before the turn, the same for all turns that began there; None at the prompt."""
        before = self.snapshot.segments
        return self.leaf.segments[before - 1].id if before else None

    @property
    def is_first(self) -> bool:
        """Whether it began at the prompt: sampled again, it is a new root."""
        return self.snapshot.segments == 0

    @property
    def tokens_before(self) -> int:
        """Sampled tokens from the prompt to the turn."""
        before = self.leaf.segments[: self.snapshot.segments]
        return sum(len(segment.token_ids) for segment in before if segment.is_sampled)

    @property
    def tokens_after(self) -> float:
        """Sampled tokens from the turn's beginning to a leaf's end, the mean over the leaves that have it."""
        after = [
            len(segment.token_ids)
            for one in self.below
            for segment in one.leaf.segments[self.snapshot.segments :]
            if segment.is_sampled
        ]
        return sum(after) / len(self.below)


Turn = tuple[Leaf, TurnSnapshot]


def turn_points(leaves: Sequence[Leaf]) -> list[TurnPoint]:
    """Return the turns of finished leaves, in order of their leaves' numbers and of their place.

    Args:
        leaves: all of a tree's so far, with the snapshots of their own turns.
    """
    by_number = {leaf.number: leaf for leaf in sorted(leaves, key=lambda leaf: leaf.number)}
    paths: dict[int, list[Turn]] = {}
    for leaf in by_number.values():  # a parent has a lower number than its forks
        first = leaf.snapshots[0].turn if leaf.snapshots else 0
        shared = paths[leaf.parent][:first] if leaf.parent is not None else []
        paths[leaf.number] = [*shared, *((leaf, snapshot) for snapshot in leaf.snapshots)]
    children = Counter(_fork_point(leaf, one) for leaf in by_number.values() for one in leaf.snapshots)
    below: dict[tuple[int, int], list[LeafBelow]] = {}
    for number, path in paths.items():
        sampled = sum(_segment(*turn) is not None for turn in path)
        for leaf, one in path:
            below.setdefault((leaf.number, one.turn), []).append(LeafBelow(by_number[number], sampled))
    return [
        TurnPoint(
            leaf=leaf,
            snapshot=one,
            segment=segment,
            history=_history(paths[leaf.number], one.turn, children),
            below=tuple(below[leaf.number, one.turn]),
            root=paths[leaf.number][0][0].number,
        )
        for leaf in by_number.values()
        for one in leaf.snapshots
        if (segment := _segment(leaf, one)) is not None and (one.state is not None or not one.segments)
    ]


def _fork_point(leaf: Leaf, snapshot: TurnSnapshot) -> int | None:
    return leaf.segments[snapshot.segments - 1].id if snapshot.segments else None


def _segment(leaf: Leaf, snapshot: TurnSnapshot) -> Segment | None:
    """Return what a turn sampled; None where it is no token."""
    after = leaf.segments[snapshot.segments : snapshot.segments + 1]
    return after[0] if after and after[0].is_sampled and after[0].token_ids else None


def _history(path: Sequence[Turn], turn: int, children: Counter[int | None]) -> ForkHistory:
    is_forked = [children[_fork_point(leaf, one)] > 1 for leaf, one in path[1:turn]]
    unforked = next((at for at, forked in enumerate(reversed(is_forked)) if not forked), len(is_forked))
    return ForkHistory(children[_fork_point(*path[turn])], unforked, sum(is_forked))
