"""Trees of worlds of binary decisions of 1/2 each, whose variances are enumerated: r is 1 with probability `chance`.

A root answers at once with probability `EARLY`, right with probability 1/2. Else it takes x1 in a turn and calls a
tool, then x2 in a second turn and calls again, then x3 in a last turn. Each place after a result forks into two by a
coin of 1/2. The change of entropy that is seen after the first result is normal, with the mean `marks`(x1). Turn d has
`LENGTHS[d]` tokens, and one more with x_d = 1.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from statistics import NormalDist

from arpo_verl.rollout.leaf_record import LeafRecord, SegmentRecord, ToolCallRecord
from arpo_verl.rollout.tree import Decision

EARLY, ROOTS = 0.2, 4
LENGTHS = (6, 4, 5)
ANSWER = 5
"""Tokens of an answer at once."""
Bits = tuple[int, ...]


@dataclass(frozen=True)
class World:
    """What decides the reward."""

    chance: Callable[[int, int, int], float]
    marks: Callable[[int], float] = lambda bit: 0.0

    def mean(self, known: Bits) -> float:
        """Return the mean reward given the first decisions."""
        rest = list(product((0, 1), repeat=3 - len(known)))
        return sum(self.chance(*known, *more) for more in rest) / len(rest)

    def variance(self, known: Bits) -> float:
        """Return the variance of the reward given the first decisions."""
        return self.mean(known) * (1 - self.mean(known))

    def total(self) -> float:
        mean = EARLY / 2 + (1 - EARLY) * self.mean(())
        return mean * (1 - mean)

    def within(self, depth: int) -> float:
        """Return W: the mean variance given the first `depth` decisions, 0 of a root that answered at once."""
        return (1 - EARLY) * self._mean_variance(depth)

    def _mean_variance(self, depth: int) -> float:
        known = list(product((0, 1), repeat=depth))
        return sum(map(self.variance, known)) / len(known)

    def late_lift(self) -> float:
        return self._mean_variance(2) / self._mean_variance(1)

    def entropy_lift(self) -> float:
        """Return the lift of the half of first forks with the higher change; needs means that differ by one sign."""
        low, high = sorted((self.marks(0), self.marks(1)))
        above = 1 - NormalDist().cdf((low - high) / 2)
        share = {bit: above if self.marks(bit) >= self.marks(1 - bit) else 1 - above for bit in (0, 1)}
        return sum(share[bit] * self.variance((bit,)) for bit in (0, 1)) / self._mean_variance(1)


def tokens_from(depth: int) -> float:
    """Return the mean tokens of a root after its result of that number; of all turns at 0."""
    return (1 - EARLY) * sum(length + 0.5 for length in LENGTHS[depth:]) + (EARLY * ANSWER if depth == 0 else 0)


def calls_from(depth: int) -> float:
    return (1 - EARLY) * (2 - depth)


def grow(world: World, draw: random.Random) -> tuple[list[LeafRecord], list[float]]:
    """Return the leaves of one prompt's tree, and their rewards."""
    grown: list[LeafRecord] = []
    rewards: list[float] = []
    ids = iter(range(1000))

    def finish(segments: list[SegmentRecord], decisions: list[Decision], chance: float) -> None:
        calls = [ToolCallRecord(one.id, "search", "ok", 0.5, 0) for one in segments if not one.is_sampled]
        grown.append(
            LeafRecord(
                leaves=0, number=len(grown), parent=None, path="", fork_token=None, is_top_up=False,
                stop_reason="completed", is_result_cut=False, is_excluded=False, segments=segments, calls=calls,
                entropy_initial=None, decisions=decisions, weight_versions=None, requested_tokens=0, cached_tokens=0,
            )
        )  # fmt: skip
        rewards.append(float(draw.random() < chance))

    def go_on(bits: Bits, segments: list[SegmentRecord], decisions: list[Decision]) -> None:
        bit = draw.getrandbits(1)
        bits = (*bits, bit)
        tokens = LENGTHS[len(bits) - 1] + bit
        segments = [*segments, SegmentRecord(next(ids), tokens, True, (0.0, tokens / 10))]
        if len(bits) == 3:
            finish(segments, decisions, world.chance(*bits))
            return
        segments.append(SegmentRecord(next(ids), 3, False))
        forks = draw.random() < 0.5
        change = draw.gauss(world.marks(bits[0]), 1.0) if len(bits) == 1 else None
        at = sum(one.tokens for one in segments)
        decision = Decision(int(forks), "coin", entropy_change=change, fork_token=at, fork_probability=0.5)
        go_on(bits, segments, [*decisions, decision])
        if forks:
            go_on(bits, segments, [])

    for _ in range(ROOTS):
        if draw.random() < EARLY:
            finish([SegmentRecord(next(ids), ANSWER, True, (0.0, ANSWER / 10))], [], 0.5)
        else:
            go_on((), [], [])
    return grown, rewards
