"""Penalties: what the forks that are already there take from a turn's score, or from a coin's probability.

`siblings`: score - α·k, k the turns that have begun at the fork point (AT²PO, arXiv 2601.04767; its released code takes
k - 1 without the turn itself). `consecutive`: score · max(0, 1 - κ l), l the tool results immediately before on the
leaf's own path that were forked at (AEPO, arXiv 2510.14545, known from its released code and second-hand; that code
counts l for the whole prompt, and new starts raise it, which is not done here). `depth`: score - λ·d, d all results
before on the path that were forked at, so that forks spread over the tree instead of going down one path; ours.
"""

from dataclasses import dataclass
from typing import Any

from arpo_verl.rollout.turn_points import ForkHistory
from arpo_verl.rules.blocks.settings import number, refused, several_names

PENALTIES = ("none", "siblings", "consecutive", "depth")


@dataclass(frozen=True)
class Penalty:
    """One penalty or several, one after the other."""

    names: tuple[str, ...]
    siblings_weight: float = 0.0
    consecutive_weight: float = 0.0
    depth_weight: float = 0.0

    @classmethod
    def of(cls, names: Any, **weights: Any) -> "Penalty":
        """Return the penalty of a rule's settings.

        Raises:
            ValueError: there is none of such a name, or a weight is negative.
        """
        checked = {f"{name}_weight": number(f"{name}_weight", value, 0.0) for name, value in weights.items()}
        return cls(several_names("penalty", names, PENALTIES), **checked)

    def without_siblings(self) -> "Penalty":
        """Return this penalty for forks while the parent grows.

        Raises:
            ValueError: it counts siblings, of which such a fork point has none.
        """
        if "siblings" in self.names:
            raise refused(
                "penalty",
                "siblings",
                "none, consecutive or depth with this rule: while a leaf grows each of its fork points is decided "
                "once; arpo.rule=top_k and sample fork in rounds",
            )
        return self

    def score(self, score: float, history: ForkHistory) -> float:
        """Return what is left of a score."""
        for name in self.names:
            if name == "siblings":
                score -= self.siblings_weight * history.siblings
            elif name == "consecutive":
                score *= self._remaining(history)
            elif name == "depth":
                score -= self.depth_weight * history.above
        return score

    def probability(self, probability: float, history: ForkHistory) -> float:
        """Return what is left of a coin's probability before the change of entropy is added, not clipped.

        With `consecutive` that is AEPO's released code: it skips a fork where (u + β ΔH) · max(0, 1 - κ l) < b, u
        uniform and b = 1 - α, so that it forks with the probability clip(1 - b / (1 - κ l) + β ΔH, 0, 1).
        """
        for name in self.names:
            if name == "consecutive":
                remaining = self._remaining(history)
                skipped = 1.0 - probability
                # Nothing is above b where nothing remains, but that b = 0 is never undercut.
                probability = 1.0 - skipped / remaining if remaining else float("-inf") if skipped else 1.0
            elif name == "depth":
                probability -= self.depth_weight * history.above
        return probability

    def _remaining(self, history: ForkHistory) -> float:
        return max(0.0, 1.0 - self.consecutive_weight * history.consecutive)
