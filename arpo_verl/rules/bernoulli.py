"""ARPO's rule: each fork is a coin with probability P_t = α + β ΔH (arXiv 2507.19849, section 3.1)."""

from arpo_verl.entropy import branch_score
from arpo_verl.rollout.rule import ForkPoint, never_by_chance, probability_of_a_fork
from arpo_verl.rollout.tree import Decision
from arpo_verl.rollout.turn_points import ForkHistory
from arpo_verl.rules.blocks.online import OnlineRule


class Bernoulli(OnlineRule):
    """Each of the Z - 1 possible forks is created on its own, with probability clip(P_t, 0, 1).

    ΔH compares the first k tokens after the result with those of the leaf's root. A penalty lowers α: with
    `consecutive` P_t is 1 - (1 - α)/(1 - κ l) + β ΔH, that of AEPO's released code (arXiv 2510.14545).
    """

    def forks_at(self, point: ForkPoint, change: float, base_probability: float, history: ForkHistory) -> Decision:
        penalised = self.penalty.probability(base_probability, history)
        score = branch_score(change, penalised, self.config.entropy_weight)
        candidates = self.config.branch_factor - 1
        forks = sum(point.generator.random() < score for _ in range(candidates))
        return Decision(
            forks,
            "coin" if forks < candidates else "branch_factor",
            change,
            score,
            fork_probability=probability_of_a_fork(score, candidates),
        )

    def never_forks(self) -> str | None:
        return super().never_forks() or never_by_chance(self.config, self.probabilities)
