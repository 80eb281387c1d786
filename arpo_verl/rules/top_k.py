"""The turns with the highest scores are sampled again, in rounds.

With the score `entropy` and the penalty `siblings` that is the rollout of AT²PO (arXiv 2601.04767), whose released code
never samples a final answer again and fills places that are left with copies of a leaf: here every turn is a candidate,
and what is left goes to the best turns once more. With `scope: root` and two forks a turn it is TreeRL's (EPTree, arXiv
2506.11902), whose forks begin at a token and here at the turn that has it. CARL (arXiv 2512.04949) forks at the highest
entropies too; its exact formula is not verified.
"""

from collections.abc import Sequence

from arpo_verl.rollout.rule import Round
from arpo_verl.rules.blocks.rounds import RoundRule


class TopK(RoundRule):
    """The best of a round's turns get `forks_per_turn` forks each; where turns run out, the best get as many again."""

    default_score = "entropy"
    passed_over = "rank"

    def choose(self, scores: Sequence[float], number: int, state: Round) -> list[int]:
        ranking = sorted(range(len(scores)), key=lambda index: -scores[index])
        forks = [0] * len(scores)
        while number:
            for index in ranking:
                given = min(self.forks_per_turn, number)
                forks[index] += given
                number -= given
        return forks
