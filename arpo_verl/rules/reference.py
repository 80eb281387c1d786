"""The decision of ARPO's released code (`vllm_rollout_with_tools.py`), in its first batch."""

from arpo_verl.config import ArpoConfig
from arpo_verl.entropy import branch_score, reference_entropy_change
from arpo_verl.rollout.protocols import EntropyMeasure
from arpo_verl.rollout.rule import BranchingRule, ForkPoint, Watch, never_by_chance, probability_of_a_fork
from arpo_verl.rollout.tree import Decision

TOP_K = 10
"""The released code's number of log-probabilities a token."""


class Reference(BranchingRule):
    """Decides by the first k tokens of the step *before* the result, so that the change is 0 at a leaf's first call.

    Entropies are -Σ p log p over the ten most likely tokens; a fork's H_initial is its own. In later batches that code
    compares with the H_initial of older prompts, which is not brought back.
    """

    watches = frozenset({Watch.EVERY_TURN})

    def __init__(self, config: ArpoConfig) -> None:
        super().__init__(config)
        if config.entropy_source != "topk":
            raise ValueError(
                f"arpo.entropy_source={config.entropy_source!r}; expected 'topk' with arpo.rule=reference: change it"
            )

    def entropy_measure(self) -> EntropyMeasure:
        return EntropyMeasure(TOP_K, is_truncated=True)

    def decide(self, point: ForkPoint) -> Decision:
        """Toss a coin for each fork that has a place.

        The released code draws u for each candidate and skips it if clip(u - β ΔH, 0, 1) > α. That is a coin with
        probability clip(α + β ΔH, 0, 1), but where α is 1: then nothing exceeds it, and each candidate forks whatever
        the change.
        """
        alpha, beta = self.config.base_probability, self.config.entropy_weight
        own = point.leaf.turn_entropies[point.leaf.inherited_turn_entropies :]
        change = reference_entropy_change(point.entropies, own[0] if own else [], point.vocabulary_size)
        candidates = min(self.config.branch_factor - 1, point.places)
        draws = (point.generator.random() - beta * change for _ in range(candidates))
        forks = sum(min(max(draw, 0.0), 1.0) <= alpha for draw in draws)
        score = branch_score(change, alpha, beta)
        return Decision(
            forks,
            "coin" if forks < candidates else "branch_factor",
            change,
            score,
            fork_probability=probability_of_a_fork(1.0 if alpha == 1 else score, candidates),
        )

    def never_forks(self) -> str | None:
        return super().never_forks() or never_by_chance(self.config)
