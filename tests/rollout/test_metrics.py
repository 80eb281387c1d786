"""The metrics of rewards; those of trees are tested with the scheduler."""

import random

import numpy as np
import pytest

from arpo_verl.rollout.leaf_record import LeafRecord, SegmentRecord, ToolCallRecord
from arpo_verl.rollout.metrics import nearest_rank, reward_metrics, tool_metrics


def test_each_number_of_the_rewards_has_its_mean():
    parts = [{"score": 1.1, "acc": 1.0, "reason": "correct"}, {"score": -1.0, "acc": 0.0, "reason": "no answer"}]
    assert reward_metrics(parts) == {"reward/score": (1.1 - 1.0) / 2, "reward/acc": 0.5}


def test_truths_count_as_one_and_rewards_that_are_no_numbers_not_at_all():
    parts = [{"score": float("nan"), "check_timeout": True}, {"score": 0.5, "check_timeout": False}, {"score": 0.7}]
    assert reward_metrics(parts) == {"reward/score": 0.6, "reward/check_timeout": 0.5}


def test_without_parts_there_are_no_metrics():
    assert reward_metrics([{}, {"reason": "wrong"}]) == {}


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([7], 50, 7), ([7], 95, 7), ([1, 2], 50, 1), ([1, 2], 95, 2), ([1, 2, 3], 50, 2), ([1, 2, 3, 4], 50, 2),
        ([1, 2, 3, 4], 75, 3), (list(range(1, 21)), 95, 19), (list(range(1, 20)), 95, 19), (list(range(1, 41)), 95, 38),
        ([1, 2, 3], 100, 3), ([1, 2, 3], 1, 1),
    ],
)  # fmt: skip
def test_percentiles_are_the_nearest_ranks(values, percent, expected):
    assert nearest_rank(values, percent) == expected


def test_percentiles_are_numpys_without_interpolation():
    generator = random.Random(1)
    for size in range(1, 60):
        values = sorted(generator.random() for _ in range(size))
        for percent in (1, 25, 50, 90, 95, 99, 100):
            assert nearest_rank(values, percent) == np.percentile(values, percent, method="inverted_cdf")


def test_leaves_that_are_trees_of_their_own_count_each_of_their_calls():
    """Rollouts of other algorithms number their segments each for itself, so that equal ids mean nothing there."""
    call = ToolCallRecord(1, "search", "ok", 0.5, 0)
    segments = [SegmentRecord(0, 3, True), SegmentRecord(1, 2, False)]
    leaf = LeafRecord(
        1, 0, None, "0", None, False, "completed", False, False, segments, [call], None, [], None,
        0, 0,
    )  # fmt: skip
    alone = tool_metrics({f"prompt_{session}": [leaf] for session in range(8)})
    assert (alone["tools/calls"], alone["tools/search/calls"], alone["tools/search/status/ok"]) == (8, 8, 8)
    assert alone["tools/calls_per_leaf"] == 1
    shared = tool_metrics({"prompt": [leaf] * 8})
    assert (shared["tools/calls"], shared["tools/calls_per_leaf"]) == (1, 1)
