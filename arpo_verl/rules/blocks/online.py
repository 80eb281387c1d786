"""What rules share that fork while the parent still grows: α by depth, penalty, gate, and the number of roots."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from arpo_verl.config import ArpoConfig
from arpo_verl.rollout.rule import BranchingRule, ForkPoint, Watch
from arpo_verl.rollout.tree import Decision, Tree
from arpo_verl.rollout.turn_points import ForkHistory
from arpo_verl.rules.blocks.gate import Gate
from arpo_verl.rules.blocks.penalty import Penalty
from arpo_verl.rules.blocks.roots import FIXED, Roots
from arpo_verl.rules.blocks.settings import number, refused


@dataclass
class ForksOnPath:
    """The forks on a leaf's way from the prompt. A fork begins with a copy."""

    consecutive: int = 0
    """Results immediately before, one after the other, that were forked at."""
    above: int = 0
    """All results before that were forked at."""

    def passed(self, is_forked: bool) -> None:
        """Count a result."""
        self.consecutive = self.consecutive + 1 if is_forked else 0
        self.above += is_forked

    @property
    def history(self) -> ForkHistory:
        return ForkHistory(1, self.consecutive, self.above)


class OnlineRule(BranchingRule):
    """A rule that decides at each tool result by the change of entropy. A subclass has `forks_at`."""

    watches = frozenset({Watch.ROOT_START, Watch.AFTER_RESULT})

    def __init__(  # noqa: PLR0913  the keywords are settings of `arpo.rule_kwargs`
        self,
        config: ArpoConfig,
        *,
        depth_probabilities: Sequence[float] | None = None,
        penalty: str | Sequence[str] = "none",
        consecutive_weight: float = 0.05,
        depth_weight: float = 0.1,
        gate: str | Sequence[str] = "always",
        reward_threshold: float = 0.0,
        accuracy_range: Sequence[float] = (0.0, 0.5),
        roots: str = FIXED,
        monitor_weight: float = 0.5,
    ) -> None:
        """
        Args:
            config: the knobs.
            depth_probabilities: α at a path's first tool result, its second and so on, the last one for all further
                ones; None is `arpo.base_probability` at all. Ascending ones prefer late forks.
            penalty: `none`, `consecutive`, `depth`, or a list of them.
            consecutive_weight: κ of `consecutive`.
            depth_weight: λ of `depth`.
            gate: `always` or `accuracy`.
            reward_threshold: leaves with a higher reward have succeeded, for `accuracy`.
            accuracy_range: the least and the largest share of succeeded leaves, for `accuracy`.
            roots: `fixed` (`arpo.initial_rollouts`) or `entropy_monitor`.
            monitor_weight: β of `entropy_monitor`.

        Raises:
            ValueError: one of them is none that this rule can have.
        """
        super().__init__(config)
        self.probabilities = _probabilities(depth_probabilities) or [config.base_probability]
        self.penalty = Penalty.of(penalty, consecutive=consecutive_weight, depth=depth_weight).without_siblings()
        self.gate = Gate.of(gate, reward_threshold, accuracy_range).for_living_leaves()
        self.needs_rewards = self.gate.needs_rewards
        self.roots = Roots.of(roots, config, monitor_weight)

    def root_state(self) -> ForksOnPath:
        return ForksOnPath()

    def new_roots(self, tree: Tree) -> int:
        if not self.roots.has_monitor:
            return super().new_roots(tree)
        # The monitor has decided about nothing, so that forks need a root beside it.
        is_alone = len(tree.ended) == tree.planned_roots == 1
        return max(self.roots.monitored(tree), int(is_alone))

    def later_roots(self, tree: Tree) -> int:
        return tree.missing if self.roots.is_monitoring(tree) else 0

    def decide(self, point: ForkPoint) -> Decision:
        history = point.leaf.rule_state.history
        change = point.change_since(point.leaf.turn_entropies[0])
        depth = min(point.leaf.tool_turns, len(self.probabilities))
        decision = self.forks_at(point, change, self.probabilities[depth - 1], history)
        is_monitor = self.roots.is_monitoring(point.tree)
        if closed := "monitor" if is_monitor else self.gate.closed_for_prompt(point.tree):
            probability = None if decision.fork_probability is None else 0.0
            decision = replace(decision, forks=0, limit=closed, fork_probability=probability)
        point.leaf.rule_state.passed(min(decision.forks, point.places) > 0)
        return decision

    def forks_at(self, point: ForkPoint, change: float, base_probability: float, history: ForkHistory) -> Decision:
        """Decide at an open fork point.

        Args:
            point: the fork point.
            change: ΔH.
            base_probability: α at this depth.
            history: the forks before it on the leaf's path.
        """
        raise NotImplementedError(f"{type(self).__name__} has no `forks_at`; expected a method that returns a Decision")

    @property
    def mean_probability(self) -> float:
        """Mean of α over the depths that have one of their own."""
        return sum(self.probabilities) / len(self.probabilities)


def _probabilities(given: Any) -> list[float]:
    if given is None:
        return []
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise refused("depth_probabilities", given, "a list of numbers from 0 to 1, or null")
    return [number("depth_probabilities", one, 0.0, 1.0) for one in given]
