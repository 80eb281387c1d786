"""Scores by which rounds rank or draw the turns to sample again.

`entropy`: mean surprisal -log p of the turn's tokens, in nats (AT²PO, arXiv 2601.04767; CARL, arXiv 2512.04949, from a
second-hand description). `entropy_change`: ARPO's P_t = α + β ΔH, with ΔH of the surprisals of the turn's first k
tokens against those of its root's (arXiv 2507.19849, section 3.1). `position`: ((i + 1)/T)^γ at turn i of T, counted
from 0 (DEEP-GRPO, arXiv 2602.14169, with its probability of success by position taken to be the same everywhere:
fitting it needs a state that lives across steps and is saved with them). `cost_ratio`: √(t1/t2), t1 and t2 the tokens
sampled before the turn and from it on: where all else is equal, the number of forks of least variance for its tokens is
proportional to it, so that late forks are preferred. `constant`: 1 (Tree-GRPO, arXiv 2509.21240).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from arpo_verl.config import ArpoConfig
from arpo_verl.entropy import branch_score, entropy_change, surprisals
from arpo_verl.rollout.rule import Round
from arpo_verl.rollout.turn_points import TurnPoint
from arpo_verl.rules.blocks.settings import number, one_name


@dataclass(frozen=True)
class ScoredTurn:
    """A turn with its score, before penalties."""

    point: TurnPoint
    score: float
    entropy_change: float | None = None
    """ΔH, where the score looks at it."""


@dataclass(frozen=True)
class Score:
    """The score that a rule's settings name."""

    name: str
    config: ArpoConfig
    position_power: float

    @classmethod
    def of(cls, name: Any, config: ArpoConfig, position_power: Any) -> "Score":
        """Return the score of a rule's settings.

        Raises:
            ValueError: there is none of this name, or the power is negative.
        """
        return cls(one_name("score", name, SCORES), config, number("position_power", position_power, 0.0))

    @property
    def is_of_fork_point(self) -> bool:
        """Whether it judges the place and not the turn: turns that began at one place are then one candidate."""
        return self.name in ("position", "cost_ratio", "constant")

    def __call__(self, state: Round, point: TurnPoint) -> ScoredTurn:
        """Return a turn with its score; one that is not finite counts as 0."""
        scored = SCORES[self.name](self, state, point)
        return scored if math.isfinite(scored.score) else ScoredTurn(point, 0.0, scored.entropy_change)

    def entropy(self, state: Round, point: TurnPoint) -> ScoredTurn:
        logprobs = point.segment.logprobs
        return ScoredTurn(point, -sum(logprobs) / len(logprobs))

    def entropy_change(self, state: Round, point: TurnPoint) -> ScoredTurn:
        first = self.config.probe_tokens
        # Turn 0 is the first segment of every leaf of a root.
        initial = surprisals(point.leaf.segments[0].logprobs[:first])
        change = entropy_change(surprisals(point.segment.logprobs[:first]), initial, state.vocabulary_size)
        score = branch_score(change, self.config.base_probability, self.config.entropy_weight)
        return ScoredTurn(point, score, change)

    def position(self, state: Round, point: TurnPoint) -> ScoredTurn:
        turns = point.below[0].turns
        return ScoredTurn(point, ((point.snapshot.turn + 1) / turns) ** self.position_power)

    def cost_ratio(self, state: Round, point: TurnPoint) -> ScoredTurn:
        return ScoredTurn(point, math.sqrt(point.tokens_before / point.tokens_after))

    def constant(self, state: Round, point: TurnPoint) -> ScoredTurn:
        return ScoredTurn(point, 1.0)


SCORES: Mapping[str, Callable[[Score, Round, TurnPoint], ScoredTurn]] = {
    "constant": Score.constant,
    "cost_ratio": Score.cost_ratio,
    "entropy": Score.entropy,
    "entropy_change": Score.entropy_change,
    "position": Score.position,
}
