"""The spans of recorded prompts: each segment and call is one, each lies within its parent, forks are links."""

import importlib
import json
import math
import pkgutil
from dataclasses import replace

import opentelemetry.semconv._incubating.attributes as incubating
import opentelemetry.semconv.attributes as stable
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_run import step_of

from arpo_verl.record import RecordedCall, RecordedLeaf, RecordedPrompt, RecordedSegment
from arpo_verl.record.token_values import LARGEST, pack
from arpo_verl.rollout.tree import Decision, Refusal
from arpo_verl.traces import names
from arpo_verl.traces.intervals import owners, times_of
from arpo_verl.traces.span import LAST, TraceSpan, attributes_of, nanoseconds
from arpo_verl.traces.spans import SpanSettings, spans_of_prompt

BEGAN = 1_700_000_000.0
SETTINGS = SpanSettings(step=3, began=BEGAN)
SECOND = 10**9

# Leaf 0: a call from 1 to 2 s, its result, an answer until 4 s, its reward at 5 s. Leaf 1 forks behind the result and
# calls two tools at once, one of which waits for a second.
PROMPT = RecordedPrompt(
    "u",
    "ask",
    [
        RecordedSegment("<search>", 4, times=(0.5, 1.0), weight_versions=(2, 3), watched=[0.5, 1]),
        RecordedSegment("found", 3, False, calls=[RecordedCall("search", "ok", 0.75, "x", started=1.0, waited=0.25)]),
        RecordedSegment("one", 2, times=(2.0, 4.0), entropies=pack([0.0, LARGEST]), log_probs=pack([0.0, LARGEST])),
        RecordedSegment("two", 5, times=(2.0, 3.0), waited=0.5),
        RecordedSegment(
            *("both", 6, False),
            calls=[
                RecordedCall("python", "timeout", 2.0, started=3.0, waited=1.0, retries=1),
                RecordedCall("search", "empty", 0.5, started=3.0, is_cached=True, cost=0.01),
            ],
        ),
    ],
    [
        RecordedLeaf(
            *("u_0_0", 0, [0, 1, 2], 1.0, {"format": 1, "why": {"a": None}}, [0.5, None, -0.5], "completed"),
            reward_times=(4.0, 5.0),
            decisions=[Decision(1, "coin", 0.25, 0.7, 1.25, 7, draws=[0.1])],
        ),
        RecordedLeaf(
            *("u_1_0", 1, [0, 1, 3, 4], 0.0, {}, [-0.25, None, -0.25, None], "length", 0, "0.1", 7),
            refusals=[Refusal(18, "failed_call")],
        ),
    ],
    truth=["5"],
    source="math",
)


def by_name(spans: list[TraceSpan]) -> dict[str, list[TraceSpan]]:
    found: dict[str, list[TraceSpan]] = {}
    for span in spans:
        found.setdefault(span.name, []).append(span)
    return found


def seconds(span: TraceSpan) -> tuple[float, float]:
    return (span.begin / SECOND - BEGAN, span.end / SECOND - BEGAN)


def test_a_prompt_is_a_trace_whose_shared_prefix_is_there_once():
    spans = spans_of_prompt(PROMPT, SETTINGS)
    assert [(span.name, seconds(span)) for span in spans] == [
        ("step 3 prompt u", (0.5, 6.0)),
        ("invoke_agent leaf 0", (0.5, 5.0)),
        ("text_completion policy", (0.5, 1.0)),
        ("tool_result", (1.0, 2.0)),
        ("execute_tool search", (1.0, 2.0)),
        ("text_completion policy", (2.0, 4.0)),
        ("invoke_agent leaf 1", (2.0, 6.0)),
        ("text_completion policy", (2.0, 3.0)),
        ("tool_result", (3.0, 6.0)),
        ("execute_tool python", (3.0, 6.0)),
        ("execute_tool search", (3.0, 3.5)),
    ]
    ids = {span.span_id: span.name for span in spans}
    assert [ids.get(span.parent_id) for span in spans] == [
        None,
        "step 3 prompt u",
        *["invoke_agent leaf 0"] * 2,
        "tool_result",
        "invoke_agent leaf 0",
        "step 3 prompt u",
        *["invoke_agent leaf 1"] * 2,
        *["tool_result"] * 2,
    ]
    # What leaf 1 goes on from is the first result.
    assert [list(span.links) for span in spans] == [[]] * 6 + [[spans[3].span_id]] + [[]] * 4


def test_attributes_say_what_the_record_says():
    spans = spans_of_prompt(PROMPT, SETTINGS)
    root, leaf, first, result, call, answer, fork, _, both, python, search = spans
    assert dict(root.attributes) == {
        names.OPERATION: "invoke_workflow",
        names.CONVERSATION: "u",
        "arpo.step": 3,
        "arpo.source": "math",
        "arpo.leaves": 2,
        "arpo.forks": 1,
        "arpo.reward.mean": 0.5,
        "arpo.reward.spread": 0.5,
        names.INPUT_MESSAGES: '[{"role": "user", "parts": [{"type": "text", "content": "ask"}]}]',
        "arpo.truth": '["5"]',
    }
    # (4 * 0.5 - 2 * 0.5) / 6
    assert (leaf.attributes["arpo.reward"], leaf.attributes["arpo.advantage"]) == (1.0, pytest.approx(1 / 6))
    assert (leaf.attributes["arpo.reward.part.format"], leaf.attributes["arpo.reward.part.why"]) == (1, '{"a": null}')
    assert leaf.attributes["arpo.leaf.stop_reason"] == "completed" and "arpo.leaf.parent" not in leaf.attributes
    forked = {name.removeprefix("arpo."): value for name, value in fork.attributes.items()}
    assert (forked["leaf.parent"], forked["fork.token"], forked["fork.entropy"], forked["fork.branch_score"]) == (
        *(0, 7, 1.25, 0.7),
    )
    assert first.attributes["arpo.segment.leaves"] == [0, 1] and first.attributes["arpo.advantages"] == [0.5, -0.25]
    assert first.attributes["arpo.entropy.watched"] == [0.5, 1.0]
    assert (first.attributes["arpo.weights.first"], first.attributes["arpo.weights.last"]) == (2, 3)
    assert first.is_request and first.attributes[names.OUTPUT_TOKENS] == 4
    assert answer.attributes["arpo.entropy.mean"] == LARGEST / 2
    assert answer.attributes["arpo.log_prob.mean"] == -LARGEST / 2
    assert (call.attributes[names.TOOL_ARGUMENTS], call.attributes[names.TOOL_RESULT]) == ("x", "found")
    assert names.INPUT_MESSAGES not in result.attributes, "the result of one call is that call's"
    assert json.loads(both.attributes[names.INPUT_MESSAGES])[0]["parts"][0]["response"] == "both"
    assert (python.error, python.attributes[names.ERROR_TYPE], python.attributes["arpo.call.retries"]) == (
        *("timeout", "timeout", 1),
    )
    assert (search.error, search.attributes["arpo.call.is_cached"], search.attributes["arpo.call.cost"]) == (
        *("", True, 0.01),
    )


def test_what_was_decided_is_an_event_where_it_was_decided():
    spans = spans_of_prompt(PROMPT, SETTINGS)
    decision, reward = spans[1].events
    assert (decision.name, decision.time) == ("arpo.decision", int((BEGAN + 2.0) * SECOND))
    assert decision.attributes["arpo.fork_token"] == 7 and decision.attributes["arpo.draws"] == [0.1]
    assert (reward.name, reward.time) == ("gen_ai.evaluation.result", int((BEGAN + 5.0) * SECOND))
    assert dict(reward.attributes) == {names.EVALUATION_NAME: "reward", names.EVALUATION_SCORE: 1.0}
    refusal, _ = spans[6].events
    assert (refusal.name, refusal.time) == ("arpo.refusal", int((BEGAN + 6.0) * SECOND))
    assert refusal.attributes["arpo.reason"] == "failed_call"


def test_the_names_are_those_of_the_conventions():
    known = {
        value
        for package in (incubating, stable)
        for module in pkgutil.iter_modules(package.__path__)
        for value in vars(importlib.import_module(f"{package.__name__}.{module.name}")).values()
        if isinstance(value, str)
    }
    assert len(known) > 500
    assert set(names.CONVENTIONS) <= known
    operations = importlib.import_module(f"{incubating.__name__}.gen_ai_attributes").GenAiOperationNameValues
    assert {names.TREE, names.LEAF, names.GENERATION, names.TOOL} <= {one.value for one in operations}


def test_every_name_that_is_not_ours_is_in_the_list_that_is_compared():
    used = {name for span in spans_of_prompt(PROMPT, SETTINGS) for name in span.attributes}
    assert {name for name in used if not name.startswith("arpo.")} <= set(names.CONVENTIONS)


def test_texts_are_left_out_where_nobody_is_to_have_them():
    secret = replace(
        PROMPT, text="secret", truth="secret", segments=[replace(one, text="secret") for one in PROMPT.segments]
    )
    spans = spans_of_prompt(secret, replace(SETTINGS, with_texts=False))
    assert "secret" not in repr(spans) and "'x'" not in repr(spans)
    assert repr(spans_of_prompt(secret, SETTINGS)).count("secret") > 5


def test_a_trace_has_the_same_ids_whenever_it_is_exported_and_another_one_others():
    first, again = spans_of_prompt(PROMPT, SETTINGS), spans_of_prompt(PROMPT, SETTINGS)
    assert first == again
    other = spans_of_prompt(PROMPT, replace(SETTINGS, began=BEGAN + 1))
    assert not {one.span_id for one in first} & {one.span_id for one in other}


def test_a_record_without_times_takes_none_and_calls_follow_one_another():
    calls = [RecordedCall("a", "ok", 1.0), RecordedCall("b", "ok", 0.5)]
    prompt = RecordedPrompt("u", "?", [RecordedSegment("x", 3, calls=calls)], [RecordedLeaf("u_0_0", segments=[0])])
    root, leaf, segment, first, second = spans_of_prompt(prompt, SETTINGS)
    assert [seconds(one) for one in (root, leaf, segment)] == [(0.0, 1.5)] * 3
    assert (seconds(first), seconds(second)) == ((0.0, 1.0), (1.0, 1.5))
    assert {one.attributes["arpo.times"] for one in (segment, first, second)} == {"unknown"}
    assert "arpo.times" not in spans_of_prompt(PROMPT, SETTINGS)[2].attributes


def test_a_segment_that_no_leaf_has_is_the_prompts():
    prompt = RecordedPrompt("u", "?", [RecordedSegment("x", 1), RecordedSegment("y", 1)], [RecordedLeaf("0", 0, [1])])
    spans = spans_of_prompt(prompt, SETTINGS)
    assert [span.attributes.get("arpo.segment") for span in spans if span.parent_id == spans[0].span_id] == [None, 0]
    assert owners(prompt) == ([[1]], [0])


moments = st.floats(-1e4, 1e6) | st.integers(0, 100)
durations = st.floats(0, 1e5)
words = st.text(st.characters(exclude_categories=()), max_size=5)
some_calls = st.builds(
    RecordedCall,
    words,
    st.sampled_from(["ok", "timeout"]),
    durations,
    words,
    started=st.none() | moments,
    waited=durations,
)
some_segments = st.builds(
    RecordedSegment,
    words,
    st.integers(0, 5),
    st.booleans(),
    st.none() | st.tuples(moments, moments),
    calls=st.lists(some_calls, max_size=3),
)


@st.composite
def some_prompts(draw) -> RecordedPrompt:
    segments = draw(st.lists(some_segments, min_size=1, max_size=6))
    leaf = st.builds(
        RecordedLeaf,
        words,
        st.integers(0, 4),
        st.lists(st.integers(0, len(segments) - 1), unique=True),
        st.none() | st.floats(allow_nan=False),
        st.dictionaries(words, st.floats() | words | st.none() | st.lists(st.floats() | st.integers())),
        st.lists(st.none() | st.floats(-1, 1), max_size=6),
        parent=st.none() | st.integers(0, 4),
        fork_token=st.none() | st.integers(0, 9),
        decisions=st.lists(st.builds(Decision, st.integers(0, 2), words, fork_token=st.none() | st.integers(0, 9))),
        refusals=st.lists(st.builds(Refusal, st.integers(0, 9), words)),
        reward_times=st.none() | st.tuples(moments, moments),
    )
    return RecordedPrompt(draw(words), draw(words), segments, draw(st.lists(leaf, max_size=4)))


def check(prompt: RecordedPrompt, spans: list[TraceSpan]) -> None:
    """Check what holds of every trace."""
    by_id = {span.span_id: span for span in spans}
    assert len(by_id) == len(spans) and len({span.trace_id for span in spans}) == 1
    segments = [span.attributes["arpo.segment"] for span in spans if "arpo.segment" in span.attributes]
    assert sorted(segments) == list(range(len(prompt.segments)))
    calls = [span.attributes[names.TOOL_CALL_ID] for span in spans if names.TOOL_CALL_ID in span.attributes]
    places = [f"{place}.{one}" for place, segment in enumerate(prompt.segments) for one in range(len(segment.calls))]
    assert sorted(calls) == sorted(places)
    assert len(spans) == 1 + len(prompt.leaves) + len(segments) + len(calls)
    assert [span.parent_id is None for span in spans] == [True] + [False] * (len(spans) - 1)
    for span in spans:
        assert 0 <= span.begin <= span.end
        assert all(span.begin <= event.time <= span.end for event in span.events)
        assert all(link in by_id and link != span.span_id for link in span.links)
        if span.parent_id is not None:
            parent = by_id[span.parent_id]
            assert parent.begin <= span.begin and span.end <= parent.end


@given(some_prompts())
def test_every_segment_and_call_is_one_span_within_its_parent(prompt):
    check(prompt, spans_of_prompt(prompt, SETTINGS))


def test_so_it_is_of_trees_that_the_scheduler_grows_and_each_fork_begins_after_what_it_shares():
    step, prompts = step_of(1, prompts=6)
    forks = 0
    for prompt in prompts:
        spans = spans_of_prompt(prompt, SpanSettings(1, step.began))
        check(prompt, spans)
        by_id = {span.span_id: span for span in spans}
        for span in spans:
            forks += len(span.links)
            assert all(by_id[link].end <= span.begin for link in span.links)
    assert forks == sum(leaf.parent is not None for prompt in prompts for leaf in prompt.leaves) > 0


@given(some_prompts())
def test_the_times_that_the_record_has_are_kept(prompt):
    times = times_of(prompt)
    for segment, (begin, end) in zip(prompt.segments, times.segments, strict=True):
        if segment.times is not None:
            assert begin <= min(segment.times) and end >= max(segment.times)
        for call in segment.calls:
            if call.started is not None:
                assert begin <= call.started and end >= call.started + call.waited + call.seconds - 1e-6


@given(st.floats(), st.floats(), st.floats(0, 2e9))
def test_a_later_moment_is_never_before_an_earlier_one(one, other, began):
    first, second = sorted([0.0 if math.isnan(value) else value for value in (one, other)])
    assert 0 <= nanoseconds(began, first) <= nanoseconds(began, second) <= LAST


def test_attributes_hold_what_they_may():
    given_values = {
        "none": None,
        "nan": math.nan,
        "whole": 2**70,
        "text": "a\ud800",
        "empty": [],
        "mixed": [1, "a"],
        "numbers": [1.0, 2.0],
        "deep": {"a": [1]},
        "is": True,
    }
    assert attributes_of(given_values) == {
        "whole": str(2**70),
        "text": "a\\ud800",
        "mixed": '[1, "a"]',
        "numbers": [1.0, 2.0],
        "deep": '{"a": [1]}',
        "is": True,
    }
