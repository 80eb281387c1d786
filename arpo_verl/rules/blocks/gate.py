"""Gates: where a rule may fork at all, whatever the scores.

`always`. `tail`: turns among the last j of a leaf's (BranPO, arXiv 2602.03719). `failed`: turns of a leaf that has
failed, its reward being at most a threshold (DEEP-GRPO, arXiv 2602.14169, by default). `accuracy`: prompts of whose
ended leaves a share within a range has succeeded (BranPO; its mapping from accuracy to tries is not verified and not
brought back, nor does forking stop at the first contrast, which selects by outcome). A leaf without a reward counts as
neither failed nor succeeded: what is not known opens no gate. A turn that several leaves share passes where it passes
for one of them.
"""

from dataclasses import dataclass
from typing import Any

from arpo_verl.rollout.tree import Tree
from arpo_verl.rollout.turn_points import LeafBelow, TurnPoint
from arpo_verl.rules.blocks.settings import number, refused, several_names, whole_number

GATES = ("always", "tail", "failed", "accuracy")


@dataclass(frozen=True)
class Gate:
    """One gate or several, all of which have to be open."""

    names: tuple[str, ...]
    reward_threshold: float = 0.0
    """Leaves with at most this reward have failed, others have succeeded."""
    accuracy_range: tuple[float, float] = (0.0, 1.0)
    tail_turns: int = 1

    @classmethod
    def of(cls, names: Any, reward_threshold: Any, accuracy_range: Any, tail_turns: Any = 1) -> "Gate":
        """Return the gate of a rule's settings.

        Raises:
            ValueError: there is none of such a name, or one of its numbers is none that it can have.
        """
        is_pair = isinstance(accuracy_range, (list, tuple)) and len(accuracy_range) == 2
        if not is_pair or number("accuracy_range", accuracy_range[0], 0, 1) > number(
            "accuracy_range", accuracy_range[1], 0, 1
        ):
            raise refused("accuracy_range", accuracy_range, "two shares from 0 to 1, the lower one first")
        return cls(
            several_names("gate", names, GATES),
            number("reward_threshold", reward_threshold),
            (float(accuracy_range[0]), float(accuracy_range[1])),
            whole_number("tail_turns", tail_turns, 1),
        )

    def for_living_leaves(self) -> "Gate":
        """Return this gate for forks while the parent grows.

        Raises:
            ValueError: it asks for the parent's end or reward, which are not known then.
        """
        if any(name in ("tail", "failed") for name in self.names):
            raise refused(
                "gate",
                "tail" if "tail" in self.names else "failed",
                "always or accuracy with this rule, which forks before a leaf's end and reward are known; "
                "arpo.rule=top_k and sample fork in rounds",
            )
        return self

    @property
    def needs_rewards(self) -> bool:
        return "failed" in self.names or "accuracy" in self.names

    def closed_for_prompt(self, tree: Tree) -> str | None:
        """Return the name of the gate that keeps a prompt from forking now, by its ended leaves; None if none does."""
        if "accuracy" not in self.names:
            return None
        rewards = [leaf.reward for leaf in tree.ended if leaf.reward is not None]
        low, high = self.accuracy_range
        succeeded = sum(reward > self.reward_threshold for reward in rewards)
        return None if rewards and low <= succeeded / len(rewards) <= high else "accuracy"

    def closed_for_turn(self, point: TurnPoint) -> str | None:
        """Return the name of a gate that keeps a turn from being sampled again; None if none does."""
        if any(self._closed_for_leaf(point, below) is None for below in point.below):
            return None
        return self._closed_for_leaf(point, point.below[0])

    def _closed_for_leaf(self, point: TurnPoint, below: LeafBelow) -> str | None:
        if "tail" in self.names and below.turns - point.snapshot.turn > self.tail_turns:
            return "tail"
        reward = below.leaf.reward
        has_failed = reward is not None and reward <= self.reward_threshold
        return "failed" if "failed" in self.names and not has_failed else None
