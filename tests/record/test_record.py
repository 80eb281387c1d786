"""The record of a step: what is written is read, what is shared is stored once, and what is damaged is named."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_run import BEGAN, END, START, Words, grown, rows_of, step_of, write_run

from arpo_verl.record import (
    NotARun,
    RecordedCall,
    RecordedLeaf,
    RecordedPrompt,
    RecordedSegment,
    RecordedStep,
    read_step,
    read_steps,
    step_files,
)
from arpo_verl.record.building import RecordBuilder, Row, plain
from arpo_verl.record.content import plain_text
from arpo_verl.record.reading import prompt_of_line
from arpo_verl.record.token_texts import TokenTexts
from arpo_verl.record.token_values import LARGEST, pack, pack_lengths, unpack, unpack_lengths
from arpo_verl.record.writing import prompt_line, write_step
from arpo_verl.rollout.tree import Decision, Refusal

texts = st.text(st.characters(exclude_categories=()))  # lone surrogates included
numbers = st.floats(allow_nan=False, allow_infinity=False)
times = st.none() | st.tuples(numbers, numbers)
calls = st.builds(
    RecordedCall, texts, texts, numbers, texts, st.integers(), st.none() | numbers, numbers, st.none() | st.booleans()
)
segments = st.builds(
    RecordedSegment,
    texts,
    st.integers(0),
    st.booleans(),
    times,
    numbers,
    st.none() | st.tuples(st.integers(), st.integers()),
    st.lists(st.tuples(st.integers(), st.integers())).map(tuple),
    texts,
    texts,
    texts,
    st.lists(numbers).map(tuple),
    st.lists(calls, max_size=2).map(tuple),
)
decisions = st.builds(
    Decision,
    st.integers(0),
    texts,
    st.none() | numbers,
    features=st.none() | st.dictionaries(texts, numbers),
    draws=st.lists(numbers).map(tuple),
)


@st.composite
def prompts(draw) -> RecordedPrompt:
    found = draw(st.lists(segments, min_size=1, max_size=3))
    leaves = st.builds(
        RecordedLeaf,
        texts,
        st.integers(),
        st.lists(st.integers(0, len(found) - 1)).map(tuple),
        st.none() | numbers,
        st.dictionaries(texts, numbers | texts | st.booleans() | st.none()),
        st.lists(st.none() | numbers).map(tuple),
        decisions=st.lists(decisions, max_size=2).map(tuple),
        refusals=st.lists(st.builds(Refusal, st.integers(), texts), max_size=2).map(tuple),
        reward_times=times,
    )
    grown = tuple(draw(st.lists(leaves, max_size=3)))
    return RecordedPrompt(draw(texts), draw(texts), tuple(found), grown, truth=draw(st.none() | texts))


@given(prompts())
def test_a_prompt_is_read_as_it_was_written(prompt):
    line = prompt_line(prompt)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert prompt_of_line(line, "here") == prompt


@given(st.lists(st.floats(0, LARGEST)))
def test_a_value_of_a_token_is_kept_with_an_error_that_grows_with_it(values):
    for value, kept in zip(values, unpack(pack(np.array(values))), strict=True):
        # Neighbouring levels are as far apart as 2 sqrt(20 value) / 90, and half of that is the largest error.
        assert abs(kept - value) <= math.sqrt(LARGEST * value) / 90 + LARGEST / 90**2


def test_values_without_a_number_are_unknown_and_those_out_of_range_are_the_nearest():
    packed = pack(np.array([math.nan, -1.0, 1e9, math.inf]))
    assert len(packed) == 4 and unpack(packed) == [None, 0.0, LARGEST, None]
    assert json.dumps(pack(np.linspace(0, LARGEST, 500))).count("\\") == 0


@given(st.lists(st.integers(0, 90)))
def test_lengths_of_tokens_are_kept(lengths):
    assert unpack_lengths(pack_lengths(lengths), len(lengths)) == lengths


def test_what_a_length_has_beyond_ninety_goes_to_the_next_token():
    assert unpack_lengths(pack_lengths([1, 200, 3, 5]), 4) == [1, 90, 90, 28]


@given(st.lists(st.integers(0, 255)))
def test_tokens_cover_their_text_whatever_they_are_parts_of(token_ids):
    # Bytes are tokens, so that a character may take four of them and most runs are no text at all.
    found = TokenTexts(lambda ids: bytes(ids).decode(errors="replace"), {0}).of(token_ids)
    assert found.text == bytes(token_ids).decode(errors="replace")
    assert sum(found.lengths) == len(found.text) and min(found.lengths, default=0) >= 0
    assert len(found.lengths) == len(token_ids)


def test_a_character_of_several_tokens_stands_with_one_of_them_and_special_tokens_are_named():
    found = TokenTexts(lambda ids: bytes(ids).decode(errors="replace"), {0}).of([*"aé".encode(), 0, *b"b"])
    assert (found.text, found.lengths, found.special) == ("aé\0b", [1, 0, 1, 1, 1], [(2, 3)])


def test_a_segments_plain_text_is_without_its_special_tokens_alone():
    segment = RecordedSegment(f"{START}a{END} says {END}", 3, special=[(0, 9), (10, 17)])
    assert plain_text(segment) == f"a says {END}"  # the last one is words of the model


def test_leaves_of_a_tree_share_their_prefix_and_have_the_texts_that_they_grew():
    words = Words()
    leaves = grown(words, "ask", "a tree")
    [prompt] = RecordBuilder(TokenTexts(words.decode, words.special_ids)).prompts(
        rows_of(words, "uid", "ask", leaves, "s"), BEGAN
    )
    assert len(prompt.segments) == len({segment.id for leaf in leaves for segment in leaf.segments})
    assert len(prompt.segments) < sum(len(leaf.segments) for leaf in prompt.leaves)
    for leaf, recorded in zip(leaves, prompt.leaves, strict=True):
        found = list(prompt.segments_of(recorded))
        assert "".join(segment.text for segment in found) == words.decode(leaf.token_ids)
        assert [segment.tokens for segment in found] == [len(segment.token_ids) for segment in leaf.segments]
        assert (recorded.parent, recorded.path, recorded.decisions) == (leaf.parent, leaf.path, leaf.decisions)
        assert [one is None for one in recorded.advantages] == [not segment.is_sampled for segment in found]
        calls = [(call.tool, call.status, call.arguments) for call in prompt.calls_of(recorded)]
        assert calls == [(call.name, call.status, call.arguments) for call in leaf.calls]


def test_every_fork_has_its_draws_and_every_place_without_one_its_reason():
    _, prompts = step_of(1, prompts=6)
    for prompt in prompts:
        for leaf in prompt.leaves:
            places = [one.fork_token for one in leaf.decisions] + [one.fork_token for one in leaf.refusals]
            assert len(places) == len(set(places))
            for decision in leaf.decisions:
                below = sum(draw < decision.branch_score for draw in decision.draws)
                assert decision.forks == below or decision.limit == "no_leaf_missing"
        forks = sum(decision.forks for leaf in prompt.leaves for decision in leaf.decisions)
        assert forks == sum(leaf.parent is not None for leaf in prompt.leaves)
    reasons = {refusal.reason for prompt in prompts for leaf in prompt.leaves for refusal in leaf.refusals}
    assert reasons == {"no_leaf_missing"}
    watched = [segment.watched for prompt in prompts for segment in prompt.segments if segment.watched]
    assert watched and max(map(len, watched)) == 5


def test_a_row_without_a_history_has_the_segments_of_its_mask():
    row = Row("u_0_0", "u", "u", 0, [1], [2, 3, 4, 5], np.array([1, 0, 0, 1]), math.nan, advantages=np.ones(4))
    [prompt] = RecordBuilder(TokenTexts(lambda ids: "x" * len(ids), ())).prompts([row], 0.0)
    [leaf] = prompt.leaves
    found = [(segment.tokens, segment.is_sampled) for segment in prompt.segments_of(leaf)]
    assert found == [(1, True), (2, False), (1, True)]
    assert (leaf.reward, list(leaf.advantages)) == (None, [1.0, None, 1.0])


def test_what_a_reward_returns_becomes_plain_json():
    given = {"a": np.float32(0.5), "b": [np.int64(1), math.nan], 3: object}
    assert plain(given) == {"a": 0.5, "b": [1, None], "3": "<class 'object'>"}


def test_leaves_that_share_nothing_keep_segments_with_the_same_ids_apart():
    words = Words()
    rows = [
        row
        for session in range(2)
        for row in rows_of(words, "u", "ask", grown(words, "ask", f"{session}", leaves=1), "s")
    ]
    apart = [Row(**{**vars(row), "tree": f"u_{place}", "number": place}) for place, row in enumerate(rows)]
    [prompt] = RecordBuilder(TokenTexts(words.decode, ())).prompts(apart, BEGAN)
    first, second = (set(leaf.segments) for leaf in prompt.leaves)
    assert first and second and not first & second


@pytest.mark.parametrize("leaves", [1, 8])
def test_a_file_is_at_most_three_times_its_text(tmp_path, leaves):
    """Of about 400 tokens a leaf; the text is what is stored once: prompts and distinct segments."""
    step, prompts = step_of(1, prompts=8, leaves=leaves, thought=300)
    write_step(tmp_path / "1.jsonl", step, prompts)
    text = sum(len(one.text.encode()) for prompt in prompts for one in (prompt, *prompt.segments))
    size = (tmp_path / "1.jsonl").stat().st_size
    assert 1 < size / text < 3, f"{size / text:.2f}"


def test_a_step_is_read_as_it_was_written(tmp_path):
    folder = write_run(tmp_path, steps=2)
    steps = list(read_steps(folder))
    assert [step.step for step in steps] == [1, 2] and not any(step.problems for step in steps)
    assert list(step_files(folder)) == list(step_files(folder / "rollouts")) == [1, 2]
    first = steps[0]
    assert (first.began, first.alarms, first.size) == (BEGAN, ["WARNING: a tool was slow"], 6)
    assert not list(folder.rglob("*.draft"))


def test_a_half_written_last_line_and_missing_prompts_are_named_and_the_rest_is_read(tmp_path):
    path = write_run(tmp_path, steps=1) / "rollouts" / "1.jsonl"
    path.write_bytes(path.read_bytes()[:-100])
    step = read_step(path)
    assert len(step.prompts) == 5
    assert [problem.removeprefix(f"{path}: ") for problem in step.problems] == [
        "the last line is not whole and was left out",
        "5 of 6 prompts are there",
    ]


BAD = {
    b"": "is empty; expected the record of a step",
    b"{": "has no whole line",
    b"nothing\n": "line 1 is not JSON",
    b"[1]\n": "line 1 is list; expected a JSON object",
    b'{"type":"run"}\n': "line 1 has format=None; expected 'arpo-verl rollout'",
    b'{"format":"arpo-verl rollout","version":9,"step":1}\n': "of version 9 of the record; expected 1: read it",
    b'{"format":"arpo-verl rollout","version":1}\n': "line 1 lacks step or size",
    b'{"format":"arpo-verl rollout","version":1,"step":1,"size":1}\n{"uid":1}\n': "line 2 is not a RecordedPrompt",
    b'{"format":"arpo-verl rollout","version":1,"step":1,"size":1}\n{"leaves":3}\n': "leaves is not a list",
    b'{"format":"arpo-verl rollout","version":1,"step":1,"size":1}\n{"leaves":[{"key":"a","segments":[4]}]}\n': (
        "leaf 0: segments=(4,); expected places below 0"
    ),
    b"[" * 100_000 + b"\n": "line 1 is not JSON",
}


@pytest.mark.parametrize("content", BAD, ids=[str(number) for number in range(len(BAD))])
def test_what_is_not_a_record_is_refused_by_name(tmp_path, content):
    path = tmp_path / "1.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError) as refused:
        read_step(path)
    assert str(path) in str(refused.value) and BAD[content] in str(refused.value)


def test_verls_own_rows_are_leaves_of_one_segment(tmp_path):
    rows = [
        {"input": "ask", "output": "one", "gts": "1", "score": 1.0, "step": 4, "uid": "a_b_0_0", "acc": 1.0},
        {"input": "ask", "output": "two", "gts": "1", "score": math.nan, "step": 4, "uid": "a_b_1_0"},
        {"input": "more", "output": "", "gts": None, "score": 0.5, "step": 4, "uid": "c_0_0", "arpo_number": 3},
    ]
    path = tmp_path / "4.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    step = read_step(path)
    assert step.step == 4 and "verl's own rows" in step.problems[0]
    found = [(prompt.uid, prompt.output_of(leaf), leaf.reward, leaf.parts) for prompt, leaf in step.rows()]
    assert found == [("a_b", "one", 1.0, {"acc": 1.0}), ("a_b", "two", None, {}), ("c", "", 0.5, {})]
    path.write_text(json.dumps(rows[0]) + "\n" + json.dumps(rows[1] | {"step": 5}) + "\n")
    with pytest.raises(ValueError, match="line 2 is of step 5 and line 1 of step 4"):
        read_step(path)


def test_what_has_no_record_is_not_a_run(tmp_path):
    with pytest.raises(NotARun, match=r"trainer\.rollout_data_dir=FOLDER"):
        step_files(tmp_path)
    with pytest.raises(NotARun, match="is not there"):
        step_files(tmp_path / "nowhere")


def test_a_step_without_prompts_is_one(tmp_path):
    write_step(tmp_path / "1.jsonl", RecordedStep(1), [])
    assert read_step(tmp_path / "1.jsonl").prompts == []
