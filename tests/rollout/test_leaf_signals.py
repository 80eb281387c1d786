"""What a leaf carries beside its reward: its turns as a function sees them, checks of what it returns, metrics."""

import math

import pytest
from fakes import text
from hypothesis import given
from hypothesis import strategies as st

from arpo_verl.rollout.leaf_signals import SIGNALS, LeafSignals, checked_turn_values, signal_metrics
from arpo_verl.rollout.leaf_turns import described, turn_segments
from arpo_verl.rollout.tree import ExecutedCall, Leaf, Segment, StopReason
from arpo_verl.turn_rewards.tools import tools


def sampled(number: int, written: str) -> Segment:
    return Segment(number, [ord(one) for one in written], True, [-1.0] * len(written))


def result(number: int, written: str, *calls: ExecutedCall) -> Segment:
    return Segment(number, [ord(one) for one in written], False, [0.0] * len(written), calls=calls)


def called(name: str, reward: float | None, status: str = "ok") -> ExecutedCall:
    return ExecutedCall(name, status, 0.5, reward, 1, f"ask {name}", f"{name} says")


def leaf(*segments: Segment) -> Leaf:
    return Leaf(0, "0", "r", segments=list(segments), stop_reason=StopReason.COMPLETED)


TWO_CALLS = leaf(
    sampled(0, "A"),
    result(1, "[a]", called("search", 0.5), called("python", -0.25)),
    sampled(2, "B"),
    result(3, "[b]", called("search", None, "model_error")),
    sampled(4, "C"),
)


def test_a_turn_is_a_sampled_segment_and_the_result_that_follows_it():
    assert [(one.id, after and after.id) for one, after in turn_segments(TWO_CALLS)] == [(0, 1), (2, 3), (4, None)]


def test_segments_without_tokens_are_no_turns_and_a_result_without_a_turn_belongs_to_none():
    odd = leaf(result(0, "x"), sampled(1, ""), sampled(2, "A"), sampled(3, "B"), result(4, "y"), result(5, "z"))
    assert [(one.id, after and after.id) for one, after in turn_segments(odd)] == [(2, None), (3, 4)]


def test_a_function_of_turn_rewards_sees_texts_calls_results_truth_and_step():
    sample = {"data_source": "hotpot", "reward_model": {"ground_truth": ["34"]}, "extra_info": {"level": 2}}
    seen = described(TWO_CALLS, text, sample, step=7)
    assert [turn.text for turn in seen.turns] == ["A", "B", "C"]
    assert [turn.result for turn in seen.turns] == ["[a]", "[b]", ""]
    first, second = seen.turns[0].calls
    assert (first.name, first.arguments, first.status, first.result) == ("search", "ask search", "ok", "search says")
    assert (second.reward, second.latency_seconds, second.retries) == (-0.25, 0.5, 1)
    assert seen.turns[1].calls[0].status == "model_error" and seen.turns[2].calls == ()
    assert (seen.ground_truth, seen.step, seen.stop_reason) == (["34"], 7, "completed")
    assert seen.sample["extra_info"] == {"level": 2}


def test_a_turns_reward_from_tools_is_the_sum_over_its_calls_and_none_without_any():
    # .5 - .25 in the first turn; the second turn's call has no reward; the answer calls nothing.
    assert tools(described(TWO_CALLS, text, {}, step=1)) == [0.25, None, None]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (None, "got None; expected a list of 2 numbers"),
        (0.5, "got 0.5"),
        ({"a": 1}, "got {'a': 1}"),
        ([1.0], "got 1 rewards; expected a list of 2 numbers"),
        ([1.0, 2.0, 3.0], "got 3 rewards"),
        ([1.0, "2"], "got '2' for turn 2"),
        ([True, 1.0], "got True for turn 1"),
        ([math.inf, 1.0], "got inf for turn 1"),
        ([10**400, 1.0], "got 1000"),
        ([[1.0], 1.0], r"got \[1.0\] for turn 1"),
    ],
)
def test_what_is_no_number_for_each_turn_is_refused_in_words(values, said):
    with pytest.raises(ValueError, match=said):
        checked_turn_values(values, 2)


@given(st.lists(st.none() | st.floats(allow_infinity=False) | st.integers(-(10**6), 10**6), max_size=6))
def test_numbers_and_nothings_pass_as_they_are(values):
    checked = checked_turn_values(values, len(values))
    expected = [None if one is None or math.isnan(one) else float(one) for one in values]
    assert checked == expected and all(one is None or type(one) is float for one in checked)


def test_arrays_pass_as_lists_do():
    numpy = pytest.importorskip("numpy")
    assert checked_turn_values(numpy.array([1.0, numpy.nan]), 2) == [1.0, None]
    assert checked_turn_values([numpy.float32(0.5), numpy.int64(2)], 2) == [0.5, 2.0]


def fields(signals: LeafSignals, **reward_parts) -> dict:
    segments = [{"id": 0, "tokens": 1, "is_sampled": True}, {"id": 1, "tokens": 1, "is_sampled": False}]
    return {SIGNALS: signals.as_dict(), "arpo": {"segments": segments}, "reward_extra_info": reward_parts}


def test_signals_survive_their_way_as_plain_values():
    signals = LeafSignals([0.5, None], None, [0.1, None], 3, 1, 0.25, 0.5)
    assert LeafSignals.of_fields({SIGNALS: signals.as_dict()}) == signals
    assert LeafSignals.of_fields({}) == LeafSignals()


def test_metrics_give_requests_seconds_failures_and_means_by_turn():
    leaves = [
        fields(LeafSignals(turn_rewards=[1.0, None], info_gains=[0.5, None], scoring_requests=2, scoring_seconds=0.5)),
        fields(LeafSignals(turn_rewards=[0.0, 4.0], info_gains=[0.25, -0.5], scoring_requests=2, scoring_failures=1)),
        fields(LeafSignals(turn_reward_failure="TimeoutError", info_gains=[None])),
    ]
    assert signal_metrics(leaves) == {
        "turn_reward/failed_fraction": 1 / 3,
        "turn_reward/mean/turn_1": 0.5,
        "turn_reward/mean/turn_2": 4.0,
        "info_gain/requests": 4.0,
        "info_gain/seconds": 0.5,
        "info_gain/failed_fraction": 0.25,
        "info_gain/mean/turn_1": 0.375,
        "info_gain/mean/turn_2": -0.5,
    }


def test_metrics_of_hints_are_shares_of_leaves():
    leaves = [fields(LeafSignals(hint=hint)) for hint in (0.0, 0.0, 0.25, 0.75)]
    assert signal_metrics(leaves) == {
        "hint/hinted_fraction": 0.5,
        "hint/level_fraction/0.25": 0.25,
        "hint/level_fraction/0.75": 0.25,
    }


def test_rewards_of_turns_that_the_reward_gives_are_counted_too_and_a_run_without_signals_logs_none():
    plain = {key: value for key, value in fields(LeafSignals(), turn_rewards=[2.0]).items() if key != SIGNALS}
    bad = {**plain, "reward_extra_info": {"turn_rewards": "none"}}
    assert signal_metrics([plain, bad]) == {"turn_reward/failed_fraction": 0.5, "turn_reward/mean/turn_1": 2.0}
    assert signal_metrics([{**plain, "reward_extra_info": {"acc": 1.0}}]) == {}
