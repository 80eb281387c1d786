"""Turns are drawn with probabilities proportional to their scores, with replacement, and sampled again, in rounds.

With the score `constant`, `scope: root` and `first_turns` that is the rollout of Tree-GRPO (arXiv 2509.21240), but that
a first turn sampled again is a tree of its own, with which it shares nothing, and that no leaf is thrown away. With the
score `position` and the gate `failed` it is DEEP-GRPO's draw of a pivot (arXiv 2602.14169).
"""

from collections.abc import Sequence

from arpo_verl.rollout.rule import Round
from arpo_verl.rules.blocks.rounds import RoundRule


class Sample(RoundRule):
    """Each draw gives a turn `forks_per_turn` forks. A score below 0 counts as 0; where all do, turns are equal."""

    default_score = "constant"
    passed_over = "draw"

    def choose(self, scores: Sequence[float], number: int, state: Round) -> list[int]:
        weights = [max(0.0, score) for score in scores]
        forks = [0] * len(scores)
        while number:
            [index] = state.generator.choices(range(len(scores)), weights if sum(weights) else None)
            given = min(self.forks_per_turn, number)
            forks[index] += given
            number -= given
        return forks
