"""The paper's rule in words: branch fully where P_t = α + β ΔH exceeds τ (arXiv 2507.19849, equation 5)."""

from arpo_verl.entropy import branch_score
from arpo_verl.rollout.rule import ForkPoint
from arpo_verl.rollout.tree import Decision
from arpo_verl.rollout.turn_points import ForkHistory
from arpo_verl.rules.blocks.online import OnlineRule


class Threshold(OnlineRule):
    """All of the Z - 1 possible forks are created if P_t > τ (`arpo.branch_threshold`), else none.

    A penalty lowers P_t: with `consecutive` it is (α + β ΔH) max(0, 1 - κ l).
    """

    def forks_at(self, point: ForkPoint, change: float, base_probability: float, history: ForkHistory) -> Decision:
        score = self.penalty.score(branch_score(change, base_probability, self.config.entropy_weight), history)
        if score > self.config.branch_threshold:
            return Decision(self.config.branch_factor - 1, "branch_factor", change, score)
        return Decision(0, "threshold", change, score)

    def never_forks(self) -> str | None:
        alpha, threshold = max(self.probabilities), self.config.branch_threshold
        if self.config.entropy_weight > 0 or alpha > threshold:
            return super().never_forks()
        return (
            f"arpo.rule=threshold with entropy_weight=0 and base_probability={alpha}, which is not above "
            f"branch_threshold={threshold}"
        )
