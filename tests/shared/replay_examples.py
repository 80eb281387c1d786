"""Rows and groups for the tests of replay."""

import numpy as np

from arpo_verl.replay import Group, GroupLeaf, ReplayContext, StoredRow
from arpo_verl.replay.store.row import Limits

LIMITS = Limits(prompt_tokens=8, response_tokens=8, vocabulary=100)


def context(**changes) -> ReplayContext:
    values = {"leaves": 4, "rows_per_update": 8, "limits": LIMITS, "seed": 3, "tokenizer": "ours"}
    return ReplayContext(**(values | changes))


def row(
    task: str = "t", *, step: int = 1, reward: float = 1.0, ids: tuple[int, ...] = (5, 6, 7), **changes
) -> StoredRow:
    """A row with a tool result in its middle."""
    length = len(ids)
    scores = np.zeros(length, dtype=np.float32)
    scores[-1] = reward
    values = {
        "prompt_ids": np.array([1, 2], dtype=np.int32),
        "response_ids": np.array(ids, dtype=np.int32),
        "mask": np.array([True, *[False] * (length - 2), True])[:length],
        "segments": np.minimum(np.arange(length, dtype=np.int32), 2),
        "scores": scores,
        "rollout_log_probs": np.full(length, -0.5, dtype=np.float32),
        "old_log_probs": np.full(length, -0.25, dtype=np.float32),
    }
    return StoredRow(task=task, step=step, reward=reward, **(values | changes))


def group(*rewards: float, task: str = "t", prompt: str = "p", **of_leaves) -> Group:
    """Leaves that share nothing; `of_leaves` has a list of values for a field."""
    leaves = []
    for number, reward in enumerate(rewards):
        fields = {name: values[number] for name, values in of_leaves.items()}
        leaves.append(GroupLeaf(f"{task}_{number}_0", number, reward, **fields))
    return Group(task, prompt, tuple(leaves))
