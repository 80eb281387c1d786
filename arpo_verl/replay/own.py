"""Own successes of past steps, put into groups that fail as a whole (ARPO-GUI, arXiv 2505.16282).

The released code (dvlab-research/ARPO) keeps up to 8 successes a task, first in first out, and where a group's rewards
have a deviation below 0.1 / 2 and a mean below 0.2 it puts one of them in the place of one leaf; log-probabilities are
computed anew under the present weights, so that its ratio begins at 1: an off-policy row without a correction.

Deviations: the success test has no default, since rewards differ; the leaf to be replaced is the one with which the
least of a tree is lost (`leaves_to_replace`); rows with the same tokens are kept once.
"""

import random
from collections.abc import Sequence
from typing import Any

from arpo_verl.replay.store.group import Group, leaves_to_replace
from arpo_verl.replay.store.row import StoredRow
from arpo_verl.replay.store.row_store import RowStore
from arpo_verl.replay.store.source import (
    ReplayContext,
    ReplaySource,
    State,
    Use,
    in_order,
    make_trigger,
    require_count,
    require_number,
    require_old_log_prob,
)


class Own(ReplaySource):
    """Keeps successes by task and puts one into each group of the task that is to be helped."""

    def __init__(  # noqa: PLR0913  settings
        self,
        context: ReplayContext,
        *,
        success: float | None = None,
        trigger: str = "all_failed",
        std_below: float = 0.05,
        mean_below: float = 0.2,
        per_task: int = 8,
        capacity: int = 2048,
        max_age: int | None = None,
        old_log_prob: str = "current",
        weight: float = 1.0,
    ) -> None:
        """
        Args:
            context: the run.
            success: the reward from which a leaf is a success; needed.
            trigger: `all_failed` or `always`.
            std_below, mean_below: a group fails as a whole below them.
            per_task: successes of one task that are kept.
            capacity: of all tasks together.
            max_age: in steps; null for any.
            old_log_prob: `current`, `stored` or `probability`.
            weight: factor of the policy loss of a replayed row.

        Raises:
            ValueError: a setting is not what it has to be.
        """
        super().__init__(context)
        self.trigger = make_trigger(trigger, success, std_below, mean_below)
        self.needs_failed_groups = self.trigger.when == "all_failed"
        for name, count, or_null in (
            ("per_task", per_task, False), ("capacity", capacity, False), ("max_age", max_age, True)
        ):  # fmt: skip
            require_count(name, count, or_null=or_null)
        require_number("weight", weight)
        self.old_log_prob = require_old_log_prob(old_log_prob)
        self.weight = float(weight)
        self.store = RowStore(per_task, capacity, max_age)

    def keeps(self, reward: float, advantage: float) -> bool:
        return reward >= self.trigger.success

    def finish(self, rows: Sequence[StoredRow], means: Sequence[float], step: int) -> None:
        # In an order that arrival has no part in, so that a resumed run keeps the same.
        self.store.add(sorted(rows, key=lambda row: (row.task, row.digest)))

    def choose(self, groups: Sequence[Group], step: int) -> list[Use]:
        self.store.forget(step)
        uses = []
        for group, generator in in_order(groups, self.context.seed, step):
            rows = self.store.of_task(group.task)
            leaves = leaves_to_replace(group, self.trigger.success)
            if rows and leaves and self.trigger.fires(group):
                row = self.pick(rows, generator)
                uses.append(
                    Use(row, leaves[0], old_log_prob=self.old_log_prob, weight=self.weight, age=step - row.step)
                )
        return uses

    def pick(self, rows: Sequence[StoredRow], generator: random.Random) -> StoredRow:
        """Return one of a task's rows, of which the last is the latest."""
        return generator.choice(rows)

    def state(self) -> State:
        return State(self.store.rows)

    def load(self, state: State) -> None:
        # What another source, or another success test, has kept before need not be a success.
        self.store.add([row for row in state.rows if row.reward >= self.trigger.success])

    def metrics(self) -> dict[str, Any]:
        return {"stored": len(self.store), "tasks": self.store.tasks}
