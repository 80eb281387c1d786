"""Weighted self-imitation: rows with a high advantage once more, beside the step's own (SPEAR, arXiv 2509.22601).

A leaf is kept if its advantage exceeds 1. Of the rows of the last 10 steps those are usable whose advantage against the
present policy, à = R - P50 of the last 10 240 group means, is positive. They come to the batch as rows of their own,
with the log-probabilities that are stored with them, and weigh (1 - cos(π t / 200)) / 2 in step t.

Deviations. SPEAR makes optimiser steps of their own after the on-policy ones. verl 0.9.1 advances the learning rate's
schedule in each call of `update_actor` and pads each to whole mini-batches, so that a second call would halve the
schedule: the rows lie in the step's one batch, where they make as many mini-batches more. The released code uses its
whole buffer when that holds more than 1.5 times its 2048 rows [not verified how often]; here a step draws `rows` of the
usable rows, without replacement, once there are so many; they stay in the store until they are too old.
"""

import random
from collections import deque
from collections.abc import Sequence

from arpo_verl.replay.store.group import Group
from arpo_verl.replay.store.row import StoredRow
from arpo_verl.replay.store.row_store import RowStore
from arpo_verl.replay.store.source import (
    ReplayContext,
    ReplaySource,
    State,
    Use,
    require_count,
    require_number,
    require_old_log_prob,
)
from arpo_verl.replay.store.weights import cosine_weight, median


class SelfImitation(ReplaySource):
    """Keeps rows with a high advantage and adds some of them to each batch."""

    def __init__(  # noqa: PLR0913  settings
        self,
        context: ReplayContext,
        *,
        least_advantage: float | None = 1.0,
        success: float | None = None,
        rows: int | None = None,
        capacity: int = 2048,
        max_age: int | None = 10,
        baseline_groups: int = 10_240,
        weight_steps: int = 200,
        old_log_prob: str = "stored",
    ) -> None:
        """
        Args:
            context: the run.
            least_advantage: what a leaf's advantage has to exceed to be kept; null where advantages are not divided by
                a deviation, and never that large.
            success: the reward that it has to reach; null for any. One of the two is needed.
            rows: those of one step; null for as many as a mini-batch has, `capacity` at most.
            capacity: rows that are kept.
            max_age: in steps; null for any.
            baseline_groups: how many groups' means the median is taken of.
            weight_steps: T of the weight; 0 weighs 1 from the first step on.
            old_log_prob: `current`, `stored` or `probability`.

        Raises:
            ValueError: a setting is not what it has to be.
        """
        super().__init__(context)
        _require_test(least_advantage, success)
        require_count("rows", rows, or_null=True)
        require_count("capacity", capacity)
        require_count("max_age", max_age, or_null=True)
        require_count("baseline_groups", baseline_groups)
        require_count("weight_steps", weight_steps, least=0)
        self.old_log_prob = require_old_log_prob(old_log_prob)
        self._least_advantage, self._success = least_advantage, success
        self._rows = min(context.rows_per_update, capacity) if rows is None else rows
        if self._rows > capacity:
            raise ValueError(
                f"arpo.replay_kwargs.capacity={capacity}; expected at least the {self._rows} rows that a step draws: "
                f"raise it, or lower arpo.replay_kwargs.rows"
            )
        self._weight_steps = weight_steps
        self._store = RowStore(capacity, capacity, max_age)
        self._means: deque[float] = deque(maxlen=baseline_groups)

    def keeps(self, reward: float, advantage: float) -> bool:
        is_high = self._least_advantage is None or advantage > self._least_advantage
        return is_high and (self._success is None or reward >= self._success)

    def finish(self, rows: Sequence[StoredRow], means: Sequence[float], step: int) -> None:
        self._store.add(sorted(rows, key=lambda row: (row.task, row.digest)))
        self._means.extend(sorted(means))

    def choose(self, groups: Sequence[Group], step: int) -> list[Use]:
        self._store.forget(step)
        weight, baseline = cosine_weight(step, self._weight_steps), median(self._means)
        usable = [row for row in self._store.rows if row.reward > baseline]
        if not weight or len(usable) < self._rows:
            return []
        drawn = random.Random(f"{self.context.seed}/{step}").sample(usable, self._rows)
        return [
            Use(
                row,
                advantage=row.reward - baseline,
                old_log_prob=self.old_log_prob,
                weight=weight,
                age=step - row.step,
            )
            for row in drawn
        ]

    def state(self) -> State:
        return State(self._store.rows, {"means": list(self._means)})

    def load(self, state: State) -> None:
        self._store.add(state.rows)
        self._means.extend(state.numbers.get("means", ()))  # another source keeps none

    def metrics(self) -> dict[str, float]:
        known = {"median": median(self._means)} if self._means else {}
        return {"stored": len(self._store), "tasks": self._store.tasks, **known}


def _require_test(least_advantage: float | None, success: float | None) -> None:
    """Raise a ValueError unless there is a test of what is worth keeping, made of numbers."""
    if least_advantage is None and success is None:
        raise ValueError(
            "arpo.replay_kwargs has neither least_advantage nor success; expected a test of what is worth keeping: set "
            "one of them"
        )
    for name, value in (("least_advantage", least_advantage), ("success", success)):
        if value is not None:
            require_number(name, value)
