"""Entropies before and after results, worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from arpo_verl.measure.bootstrap import Interval
from arpo_verl.measure.entropies import entropies_of
from arpo_verl.record import RecordedCall, RecordedLeaf, RecordedPrompt, RecordedSegment
from arpo_verl.record.token_values import LARGEST, LEVELS, pack


def nats(level: int) -> float:
    """Return a value that the record keeps as it is."""
    return LARGEST * (level / LEVELS) ** 2


def sampled(*levels: int) -> RecordedSegment:
    return RecordedSegment("x", len(levels), entropies=pack(np.array([nats(level) for level in levels])))


RESULT = RecordedSegment("r", 3, is_sampled=False, calls=[RecordedCall("search", "ok")])
PROMPT = RecordedPrompt(
    "a",
    "?",
    segments=[sampled(2, 4), RESULT, sampled(6), sampled(10)],
    leaves=[RecordedLeaf("a_0", 0, [0, 1, 2], 1.0), RecordedLeaf("a_1", 1, [0, 1, 3], 0.0, parent=0, fork_token=5)],
)


def exactly(value: float) -> Interval:
    return Interval(*[pytest.approx(value)] * 3)


def test_before_and_after_are_means_of_prompts_and_the_change_is_of_those_with_both():
    # One prompt more ends with its result: it has a before, which is the same, and no after.
    without = replace(PROMPT, leaves=[RecordedLeaf("b_0", 0, [0, 1], 0.0)])
    found = entropies_of([PROMPT] * 8 + [without])
    [search] = found.tools
    before, after = (nats(2) + nats(4)) / 2, (nats(6) + nats(10)) / 2
    assert (search.tool, search.results) == ("search", 8 * 2 + 1)  # once for each turn that follows it
    assert search.before == exactly(before) and search.after == exactly(after)
    assert search.change == exactly(after - before)
    assert found.start == exactly(before)
    assert {at: value.value for at, value in search.by_position.items()} == pytest.approx(
        {-2: nats(2), -1: nats(4), 1: after}
    )


def test_what_few_prompts_have_is_not_told():
    without = replace(PROMPT, leaves=[RecordedLeaf("b_0", 0, [0, 1], 0.0)])
    [search] = entropies_of([PROMPT] * 3 + [without] * 8).tools
    assert search.before is not None and search.after is None and search.change is None
    assert sorted(search.by_position) == [-2, -1]
    assert entropies_of([PROMPT] * 7) is None
    assert entropies_of([RecordedPrompt("a", "?")] * 9) is None
