"""The number of leaves that start from the prompt: `fixed`, or `entropy_monitor` (AEPO, arXiv 2510.14545).

The monitor is a first root that grows to its end alone. With H_root, the mean entropy of its first k tokens, and
H_tool, that of the first k tokens after its tool results, m = M σ(β (H_root - H_tool)) of the M leaves start from the
prompt: an uncertain question is sampled from its beginning, uncertain results are forked at. The formula and its
rounding, int(m) + 1 within 1 and M, are the released code's; the paper is known second-hand. That code throws the
monitor's trajectory away, which is on-policy and stays here as the first root.
"""

import math
import statistics
from dataclasses import dataclass
from typing import Any

from arpo_verl.config import ArpoConfig
from arpo_verl.entropy import surprisals
from arpo_verl.rollout.tree import Leaf, Tree
from arpo_verl.rules.blocks.settings import number, one_name

FIXED, MONITOR = "fixed", "entropy_monitor"


@dataclass(frozen=True)
class Roots:
    """How many leaves start from the prompt."""

    name: str
    config: ArpoConfig
    monitor_weight: float
    """β, of the difference of the entropies in nats."""

    @classmethod
    def of(cls, name: Any, config: ArpoConfig, monitor_weight: Any) -> "Roots":
        """Return the roots of a rule's settings.

        Raises:
            ValueError: there are none of this name, or β is negative.
        """
        return cls(one_name("roots", name, (FIXED, MONITOR)), config, number("monitor_weight", monitor_weight, 0.0))

    @property
    def has_monitor(self) -> bool:
        return self.name == MONITOR

    def is_monitoring(self, tree: Tree) -> bool:
        """Whether the tree has only its monitor, which still grows."""
        return self.has_monitor and tree.planned_roots == 1 and not tree.ended

    def monitored(self, tree: Tree) -> int:
        """Return how many leaves to start from the prompt now: one at first, the rest of m when it has ended."""
        if not tree.planned_roots:
            return 1
        if not tree.ended:
            return 0
        root, after_tool = monitor_entropies(tree.ended[0], self.config.probe_tokens)
        return max(0, monitored_roots(tree.size, root - after_tool, self.monitor_weight) - tree.planned_roots)


def monitored_roots(leaves: int, difference: float, weight: float) -> int:
    """Return int(M σ(β (H_root - H_tool))) + 1, at least 1 and at most M.

    >>> monitored_roots(16, 1.2 - 0.8, 0.5), monitored_roots(16, 0.8 - 2.0, 0.5)
    (9, 6)
    """
    share = 0.5 * (1.0 + math.tanh(0.5 * weight * difference))  # the logistic function, without overflow
    return min(max(int(leaves * share) + 1, 1), leaves)


def monitor_entropies(monitor: Leaf, tokens: int) -> tuple[float, float]:
    """Return H_root and H_tool of a finished leaf in nats, twice the same where one of them is not known.

    They are what was measured, where the rule watches turns, else surprisals of the first tokens of the turns.
    """
    turns = [surprisals(one.logprobs[:tokens]) for one in monitor.segments if one.is_sampled and one.token_ids]
    initial = [*monitor.turn_entropies, *turns][:1]
    measured = [one.entropy for one in monitor.decisions if one.entropy is not None]
    after_tool = measured or [statistics.fmean(turn) for turn in turns[1:]]
    if not initial or not initial[0] or not after_tool:
        return 0.0, 0.0
    return statistics.fmean(initial[0]), statistics.fmean(after_tool)
