"""Sources of replay for tests, named by their dotted paths, and a loss that names what they bring."""

import math

import numpy as np
from verl.trainer.ppo.core_algos import get_policy_loss_fn

from arpo_verl.replay import ReplaySource, StoredRow, Use
from arpo_verl.replay.own import Own


class All(Own):
    """Replaces all failed leaves of a group by one success, but the second leaf."""

    def __init__(self, context, *, success=1.0):
        super().__init__(context, success=success)

    def choose(self, groups, step):
        return [
            Use(rows[0], leaf, weight=0.25)
            for group in groups
            if (rows := self.store.of_task(group.task))
            for leaf in group.leaves
            if leaf.number != 1
        ]


class Answering(ReplaySource):
    """Has a row of its own for the first prompt."""

    def row(self, length: int = 3, prompt: tuple[int, ...] = (11, 12, 13, ord("a"))) -> StoredRow:
        scores = np.zeros(length, dtype=np.float32)
        scores[-1] = 1.0
        mask = np.ones(length, dtype=bool)
        mask[1] = False
        return StoredRow(
            "t", 0, 1.0, np.array(prompt, dtype=np.int32), np.arange(length, dtype=np.int32), mask,
            np.arange(length, dtype=np.int32), scores,
        )  # fmt: skip

    def leaf(self, groups):
        return next(leaf for group in groups for leaf in group.leaves if leaf.key.endswith("a1_3_0"))


class Taught(Answering):
    def choose(self, groups, step):
        return [Use(self.row(), self.leaf(groups), advantage=1.0, old_log_prob="probability")]


class Wrong(Answering):
    def choose(self, groups, step):
        other = next(leaf for group in groups for leaf in group.leaves if leaf.key.endswith("b1_3_0"))
        return [Use(self.row(length=17), self.leaf(groups)), Use(self.row(), other)]


class Mistaken(Answering):
    def __init__(self, context, *, mistake: str):
        super().__init__(context)
        self._mistake = mistake

    def choose(self, groups, step):
        row, leaf = self.row(), self.leaf(groups)
        return {
            "twice": [Use(row, leaf), Use(row, leaf)],
            "no_group": [Use(row)],
            "not_finite": [Use(row, advantage=math.nan)],
            "not_stored": [Use(row, leaf, old_log_prob="stored")],
            "weight": [Use(row, leaf, weight=-1.0)],
        }[self._mistake]


def naming(row_weight, is_replay, **arguments):
    """verl's own loss, which names what replayed rows have."""
    return get_policy_loss_fn("vanilla")(**arguments)
