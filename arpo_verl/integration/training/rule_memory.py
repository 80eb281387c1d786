"""What the branching rule has learnt from finished steps. It is part of a checkpoint, and travels with each prompt."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from arpo_verl.rollout.fork_outcome import ForkOutcome
from arpo_verl.rollout.rule import BranchingRule

FILE = "arpo_rule_memory.json"
"""In the folder of a step's checkpoint."""


class RuleMemory:
    """Lets the rule learn once a step is finished; what was seen of one that was not finished does not count."""

    def __init__(self, rule: BranchingRule | None) -> None:
        """
        Args:
            rule: the run's; None of a run without trees.
        """
        self._rule = rule
        self._memory: Mapping[str, Any] | None = None
        self._of_this_step: list[ForkOutcome] = []
        self.packed: str | None = None
        """The memory as JSON; None of a rule that has learnt nothing."""

    def step_begins(self) -> None:
        """A step begins."""
        self._of_this_step = []

    def seen(self, outcomes: Sequence[ForkOutcome]) -> None:
        """The step that has begun has these decisions."""
        self._of_this_step += outcomes

    def step_ends(self) -> None:
        """The step is finished: the rule learns from it."""
        if self._rule is not None:
            self._keep(self._rule.learn(self._memory, self._of_this_step))
        self._of_this_step = []

    def _keep(self, memory: Mapping[str, Any] | None) -> None:
        self._memory = memory
        try:
            self.packed = None if memory is None else json.dumps(memory, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{type(self._rule).__name__}.learn returned what is no JSON ({error}); expected dictionaries, lists, "
                f"texts and finite numbers: mend the rule"
            ) from None

    def save(self, folder: Path) -> None:
        """Write to a step's folder; nothing of a rule that has learnt nothing."""
        if self.packed is not None:
            (folder / FILE).write_text(self.packed)

    def load(self, folder: Path) -> None:
        """Read from a step's folder; where nothing is there, the rule begins anew."""
        if self._rule is not None and (folder / FILE).is_file():
            self._keep(json.loads((folder / FILE).read_text()))
