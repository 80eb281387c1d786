"""The order of rows in which those that share a prefix are neighbours, and which of them go into one micro-batch.

Rows that are sorted by their token ids are a depth-first walk of their tree: each takes the longest prefix that it
shares with any row before it from the row just before. Nothing but token ids is compared, so that rows share what they
have in common whatever tree or group they come from; a row need not belong to any.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int64]
"""Ids of a row's tokens. Shape (length,)."""


@dataclass(frozen=True)
class DepthFirst:
    """Rows in the order of the walk; all three are in that order."""

    rows: Sequence[int]
    """Places of the rows among those given."""
    lengths: Sequence[int]
    """Tokens of the rows."""
    common: Sequence[int]
    """Tokens at a row's start that are those of the row before it; 0 for the first."""

    @classmethod
    def of(cls, rows: Sequence[Tokens]) -> "DepthFirst":
        """Sort rows.

        Raises:
            ValueError: a row has no token.
        """
        empty = [place for place, row in enumerate(rows) if not len(row)]
        if empty:
            raise ValueError(
                f"rows {empty} of {len(rows)} have no token; expected one at least in each: leave them out"
            )
        # Bytes of big-endian numbers compare as the numbers do, many times faster than lists.
        order = sorted(range(len(rows)), key=lambda place: rows[place].astype(">u8").tobytes())
        common = [0, *(_common(rows[a], rows[b]) for a, b in pairwise(order))]
        return cls(order, [len(rows[place]) for place in order], common[: len(order)])

    @cached_property
    def shared(self) -> list[int]:
        """Tokens at each row's start that are computed with the row before it: all that are common but the last one.

        The last common token is computed once more at the head of what the row adds, so that every computed token has
        exactly one next token, also at forks: a label is the next token of the computed sequence, as it is in a row.
        """
        return [max(common - 1, 0) for common in self.common]

    @cached_property
    def own(self) -> list[int]:
        """Tokens that each row adds to those computed for the rows before it."""
        return [length - shared for length, shared in zip(self.lengths, self.shared, strict=True)]

    @property
    def unique(self) -> int:
        """Return how many tokens the rows have where each that they share counts once."""
        return sum(self.lengths) - sum(self.common)

    def computed(self, start: int, end: int) -> int:
        """Return how many tokens are computed for the rows from `start` to before `end` of the walk by themselves."""
        return self.shared[start] + sum(self.own[start:end])


def _common(one: Tokens, other: Tokens) -> int:
    size = min(len(one), len(other))
    differs = one[:size] != other[:size]
    return int(differs.argmax()) if differs.any() else size


def split(walk: DepthFirst, budget: int, at_least: int = 1) -> list[list[int]]:
    """Cut a walk into sets of rows, each of at most `budget` computed tokens.

    A prefix that is needed on both sides of a cut is computed on both. The cuts are those with which the fewest tokens
    are computed, then those of the fewest sets; after that the largest sets are halved until there are as many as asked
    for.

    Args:
        walk: the rows.
        budget: tokens of a set; a row that is longer is a set of its own.
        at_least: sets.

    Returns:
        Places of the rows of each set among those given.

    Raises:
        ValueError: there are fewer rows than sets are asked for.
    """
    if at_least > len(walk.rows):
        raise ValueError(
            f"{len(walk.rows)} rows can't be split into {at_least} micro-batches; expected as many rows at least: give "
            f"each rank as many rows as the others have"
        )
    cuts = _fewest_tokens(walk, budget)
    while len(cuts) < at_least:
        _halve_largest(walk, cuts)
    return [list(walk.rows[start:end]) for start, end in cuts]


def _fewest_tokens(walk: DepthFirst, budget: int) -> list[tuple[int, int]]:
    """Return the first row of each set and that after its last one, found from the front row by row."""
    count, own = len(walk.rows), walk.own
    best = [(0, 0)] + [(0, 0)] * count
    begins = [0] * (count + 1)
    for end in range(1, count + 1):
        # The last row by itself, whatever its length; then with ever more of the rows before it.
        size, start = walk.lengths[end - 1], end - 1
        best[end], begins[end] = (best[start][0] + size, best[start][1] + 1), start
        added = own[start]
        while start > 0:
            start -= 1
            if added + own[start] > budget:
                break
            size = added + walk.lengths[start]
            added += own[start]
            candidate = (best[start][0] + size, best[start][1] + 1)
            if size <= budget and candidate < best[end]:
                best[end], begins[end] = candidate, start
    cuts, end = [], count
    while end:
        cuts.append((begins[end], end))
        end = begins[end]
    return cuts[::-1]


def _halve_largest(walk: DepthFirst, cuts: list[tuple[int, int]]) -> None:
    """Replace the set with the most tokens, of those with several rows, by two whose larger one is smallest."""
    several = [place for place, (start, end) in enumerate(cuts) if end - start > 1]
    place = max(several, key=lambda one: walk.computed(*cuts[one]))
    start, end = cuts[place]
    middle = min(range(start + 1, end), key=lambda one: max(walk.computed(start, one), walk.computed(one, end)))
    cuts[place : place + 1] = [(start, middle), (middle, end)]
