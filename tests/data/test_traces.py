"""Traces of tool use: what is read, what is refused, and that their tokens are those of the rollout."""

import argparse
import asyncio
import json
import random

import pyarrow.parquet as pq
import pytest
from fakes import Collector, ScriptedTools
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from arpo_verl.config import ArpoConfig
from arpo_verl.data import traces_command
from arpo_verl.data.fields import RowError
from arpo_verl.data.trace_tokens import encode_tag_trace
from arpo_verl.data.traces import TraceOptions, convert_trace, tag_turns
from arpo_verl.rollout.protocols import Generation
from arpo_verl.rollout.scheduler import PromptRollout
from arpo_verl.rollout.tag_syntax import Tags, TagSyntax
from arpo_verl.rollout.turns import RolloutServices, RolloutSettings
from arpo_verl.rules import build_rule
from arpo_verl.tiny_world import cold_start, model
from arpo_verl.tiny_world.__main__ import write_traces

TAGS = Tags(("python", "search"))
OPTIONS = TraceOptions(TAGS)
QUESTION = {"role": "user", "content": "Who?"}
TEXT = (
    "<think>I look.</think> <search>it</search> <result>\n48\n</result>\n"
    "<python>48+1</python>\n\n<result>49 </result> so 49"
)
TURNS = [
    ("assistant", "<think>I look.</think> <search>it</search>"),
    ("tool", "48"),
    ("assistant", "\n<python>48+1</python>"),
    ("tool", "49"),
    ("assistant", " so 49"),
]


def turns(row, options=OPTIONS) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in convert_trace(row, options)["messages"]]


def test_results_inside_the_text_become_messages_of_their_own():
    row = {
        "conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": TEXT}],
        "system": "Use tools.",
    }
    assert turns(row) == [("system", "Use tools."), ("user", "Who?"), *TURNS]


def test_an_alpaca_row_has_the_system_prompt_in_its_instruction_or_joins_it_to_the_question():
    row = {"instruction": "Use tools.", "input": "Who?", "output": TEXT}
    assert turns(row) == [("system", "Use tools."), ("user", "Who?"), *TURNS]
    assert turns(row, TraceOptions(TAGS, joins_instruction=True)) == [("user", "Use tools.\nWho?"), *TURNS]
    assert turns(row | {"input": ""}) == [("user", "Use tools."), *TURNS]


def test_results_in_messages_of_role_tool_give_the_same_trace():
    messages = [QUESTION, *({"role": role, "content": text} for role, text in TURNS)]
    assert turns({"messages": messages}) == [("user", "Who?"), *TURNS]


def test_a_system_prompt_takes_the_place_of_a_traces_own():
    row = {"messages": [{"role": "system", "content": "old"}, QUESTION, {"role": "assistant", "content": "I"}]}
    assert turns(row, TraceOptions(TAGS, system_prompt="new"))[0] == ("system", "new")


BAD = {
    "a call without a result": ("<search>it</search> so 49", "a call of search is not followed by its result"),
    "an earlier call": (
        "<python>1</python> <search>it</search> <result>1</result> 2",
        "a call of python is not follow",
    ),
    "a result without a call": ("so <result>48</result> 48", "a result follows no call of python, search"),
    "another tool": ("<browse>x</browse> <result>48</result> 48", "name the tool in --tools"),
    "text between": (
        "<search>it</search> gives <result>48</result> 48",
        "a call of search is not followed by its result",
    ),
    "an open result": ("<search>it</search> <result>48", "<result> has no </result> after it"),
    "no answer": ("<search>it</search> <result>48</result> ", "does not end with the assistant's text"),
    "no opening tag": ("it</search> <result>48</result> 48", "the closing tag of 'search' has no opening tag"),
    "two results": ("<search>a</search> <result>1</result> <result>2</result> 3", "an assistant's text is empty"),
    "nothing": ("", "an assistant's text is empty"),
}


@pytest.mark.parametrize(("text", "problem"), BAD.values(), ids=BAD)
def test_what_the_rollout_could_not_have_produced_is_refused_with_its_field(text, problem):
    with pytest.raises(RowError, match="field 'output': ") as error:
        convert_trace({"instruction": "", "input": "Who?", "output": text}, OPTIONS)
    assert problem in str(error.value)


BAD_ROWS = {
    "no text": ({"question": "Who?"}, "no field 'messages', 'conversations' or 'output'; got question"),
    "no list": ({"messages": "hi"}, "field 'messages' is not a list of messages"),
    "no object": ({"messages": ["hi"]}, r"field 'messages\[0\]' is a str"),
    "role": ({"messages": [{"role": "robot", "content": "hi"}]}, r"field 'messages\[0\]' has the role 'robot'"),
    "content": ({"messages": [{"role": "user", "content": 3}]}, r"field 'messages\[0\].content' is a int"),
    "no question": ({"messages": [{"role": "assistant", "content": "hi"}]}, "no question"),
    "no turn": ({"messages": [QUESTION]}, "does not end with the assistant's text"),
    "second question": (
        {"messages": [QUESTION, {"role": "assistant", "content": "I"}, QUESTION]},
        "a user's message follows the assistant's",
    ),
    "native": (
        {"messages": [QUESTION, {"role": "assistant", "tool_calls": [{"function": {"name": "search"}}]}]},
        "has native tool calls; .* --syntax native",
    ),
    "half a surrogate pair": ({"messages": [{"role": "user", "content": "\ud800"}]}, "half of a surrogate pair"),
}


@pytest.mark.parametrize(("row", "problem"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_is_refused_with_what_was_expected(row, problem):
    with pytest.raises(RowError, match=problem):
        convert_trace(row, OPTIONS)


def native_row(arguments, tool: str = "search") -> dict:
    call = {"id": "1", "type": "function", "function": {"name": tool, "arguments": arguments}}
    return {
        "messages": [
            QUESTION,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "48", "tool_call_id": "1"},
            {"role": "assistant", "content": "so 48"},
        ],
        "tools": json.dumps([{"type": "function", "function": {"name": tool}}]),
    }


@pytest.mark.parametrize("arguments", [{"query": "it"}, '{"query": "it"}'])
def test_native_calls_keep_their_arguments_and_no_others(arguments):
    converted = convert_trace(native_row(arguments), TraceOptions(TAGS, "native"))
    assert [message["role"] for message in converted["messages"]] == ["user", "assistant", "tool", "assistant"]
    function = {"name": "search", "arguments": {"query": "it"}}
    assert json.loads(converted["messages"][1]["tool_calls"]) == [{"type": "function", "function": function}]
    assert json.loads(converted["tools"]) == [{"type": "function", "function": {"name": "search"}}]


def test_sharegpts_function_calls_are_native_calls():
    conversations = [
        {"from": "human", "value": "Who?"},
        {"from": "function_call", "value": '{"name": "search", "arguments": {"query": "it"}}'},
        {"from": "observation", "value": "48"},
        {"from": "gpt", "value": "so 48"},
    ]
    expected = convert_trace(native_row({"query": "it"}), TraceOptions(TAGS, "native"))["messages"]
    assert convert_trace({"conversations": conversations}, TraceOptions(TAGS, "native"))["messages"] == expected


@pytest.mark.parametrize("arguments", ["{", "[1]", '"it"'])
def test_native_arguments_that_are_no_object_are_refused(arguments):
    with pytest.raises(RowError, match=r"field 'messages\[1\]\.tool_calls\[0\]\.function\.arguments'"):
        convert_trace(native_row(arguments), TraceOptions(TAGS, "native"))


TEXTS = st.text("ab <>/\n", max_size=12)
RESULTS = st.text("ab\n 1", min_size=1, max_size=12).map(str.strip)


@given(st.lists(st.tuples(TEXTS, st.sampled_from(TAGS.tools), RESULTS), max_size=4), TEXTS.map("so {}".format))
def test_a_written_trace_is_read_back_as_the_turns_that_it_was_written_from(calls, answer):
    expected = []
    for text, tool, result in calls:
        expected += [("assistant", f"{text}<{tool}>x</{tool}>"), ("tool", result)]
    expected.append(("assistant", answer))
    written = "".join(f" <result>\n{text}\n</result>" if role == "tool" else text for role, text in expected)
    read = tag_turns([{"role": "assistant", "content": written}], TAGS)
    assert [(turn["role"], turn["content"]) for turn in read] == expected


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens reach over the borders of results, when it is given a whole trace at once."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    written = "".join(f" <result>\n{text}\n</result>" if role == "tool" else text for role, text in TURNS)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator([written[20:60]] * 9, BpeTrainer(initial_alphabet=alphabet, show_progress=False))
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    template = "{% for message in messages %}{{ message['role'] }}:{{ message['content'] }}\n{% endfor %}"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", chat_template=template)


class ReadAloud:
    """An engine that says the turns one after the other, each in as many requests as it is asked in."""

    def __init__(self, turns: list[list[int]]) -> None:
        self.left = [list(turn) for turn in turns]

    async def generate(self, request) -> Generation:
        turn = self.left[0]
        said, self.left[0] = turn[: request.max_tokens], turn[request.max_tokens :]
        if not self.left[0]:
            self.left.pop(0)
        return Generation(said, [-1.0] * len(said), entropies=[1.0] * min(len(said), request.entropy_tokens))


def rolled_out(tokenizer, prompt: list[int], written: list[str], results: list[str]):
    """Return the leaf in which the model writes these texts and gets these results."""

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    engine = ReadAloud([encode(text) for text in written[:-1]] + [[*encode(written[-1]), tokenizer.eos_token_id]])
    syntax = TagSyntax(TAGS, tokenizer.decode, encode, {tokenizer.eos_token_id})
    answers = iter(results)
    collector = Collector()
    services = RolloutServices(engine, ScriptedTools(lambda call: next(answers)), syntax, collector)
    size = RolloutSettings(prompt, 1, 1000, vocabulary_size=len(tokenizer), seed="s")
    config = ArpoConfig(probe_tokens=3)
    asyncio.run(PromptRollout(size, config, build_rule(config), services).run())
    return collector.leaves[0]


@pytest.mark.parametrize("make", [merging_tokenizer, model.make_tokenizer])
def test_a_traces_tokens_and_mask_are_those_of_the_rollout(make):
    tokenizer = make()
    messages = convert_trace({"instruction": "", "input": "Who?", "output": TEXT}, OPTIONS)["messages"]
    ids, mask = encode_tag_trace(messages, tokenizer, TAGS)
    prompt = tokenizer.apply_chat_template([QUESTION], add_generation_prompt=True, return_dict=False)
    texts = {kind: [text for role, text in TURNS if role == kind] for kind in ("assistant", "tool")}
    leaf = rolled_out(tokenizer, prompt, texts["assistant"], texts["tool"])
    assert (ids, mask) == (prompt + leaf.token_ids, [0] * len(prompt) + leaf.response_mask)


def test_the_whole_text_at_once_would_have_other_tokens():
    tokenizer = merging_tokenizer()
    messages = convert_trace({"instruction": "", "input": "Who?", "output": TEXT}, OPTIONS)["messages"]
    ids, _ = encode_tag_trace(messages, tokenizer, TAGS)
    assert tokenizer.encode(tokenizer.decode(ids)) != ids


def test_traces_of_the_tiny_world_have_the_tokens_of_its_own_cold_start():
    tokenizer = model.make_tokenizer()
    for question, pieces in cold_start.traces(random.Random(0), 50):
        row = {"messages": [{"role": "user", "content": question.text}]}
        row["messages"].append({"role": "assistant", "content": "".join(text for text, _ in pieces)})
        ids, mask = encode_tag_trace(convert_trace(row, OPTIONS)["messages"], tokenizer, TAGS)
        expected, labels = cold_start.encode_trace(tokenizer, question, pieces)
        assert ids == expected
        assert mask == [int(label != cold_start.IGNORED) for label in labels]


def test_the_tiny_world_writes_traces_that_are_all_good_and_the_same_for_the_same_seed(tmp_path, capsys):
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        (tmp_path / name).mkdir()
        write_traces(tmp_path / name, seed, 30)
    one, same, other = ((tmp_path / name / "traces.jsonl").read_text() for name in ("one", "same", "other"))
    assert one == same != other
    assert command(str(tmp_path / "one" / "traces.jsonl"), "--out", str(tmp_path / "out.parquet")) == 0
    assert "30 written" in capsys.readouterr().out


def command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    traces_command.add_arguments(parser)
    return traces_command.run(parser.parse_args(words))


GOOD_LINE = json.dumps({"messages": [QUESTION, {"role": "assistant", "content": TEXT}]})
BAD_LINE = json.dumps({"messages": [QUESTION, {"role": "assistant", "content": "<search>it</search>"}]})


def test_a_bad_row_leaves_no_file_and_is_named(tmp_path, capsys):
    source, out = tmp_path / "traces.jsonl", tmp_path / "out.parquet"
    source.write_text(f"{GOOD_LINE}\n{BAD_LINE}\nno json\n")
    assert command(str(source), "--out", str(out)) == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["traces.jsonl"]
    error = capsys.readouterr().err
    assert "2 of 3 rows are bad, nothing was written" in error
    assert "traces.jsonl, row 2: field 'messages': a call of search is not followed by its result" in error
    assert "traces.jsonl, row 3: the line is not a JSON object" in error


def test_bad_rows_are_left_out_on_demand_and_counted(tmp_path, capsys):
    source, out = tmp_path / "traces.jsonl", tmp_path / "out.parquet"
    source.write_text(f"{GOOD_LINE}\n{BAD_LINE}\n")
    assert command(str(source), "--out", str(out), "--skip-bad-rows") == 0
    said = capsys.readouterr().out
    assert "2 rows read" in said
    assert "1 bad, left out: field 'messages': a call of search" in said
    assert "1 calls of python" in said
    rows = pq.read_table(out).to_pylist()
    assert [message["content"] for message in rows[0]["messages"]][1:] == [text for _, text in TURNS]
    assert command(str(source), "--out", str(out), "--skip-bad-rows") == 1  # it exists
    assert "exists: choose another name, or replace it with --overwrite" in capsys.readouterr().err


def test_a_trace_that_is_too_long_is_a_bad_row(tmp_path, capsys):
    tokenizer = model.make_tokenizer()
    tokenizer.save_pretrained(tmp_path / "model")
    messages = convert_trace(json.loads(GOOD_LINE), OPTIONS)["messages"]
    length = len(encode_tag_trace(messages, tokenizer, TAGS)[0])
    source, out = tmp_path / "traces.jsonl", tmp_path / "out.parquet"
    source.write_text(GOOD_LINE + "\n")
    measured = [str(source), "--out", str(out), "--tokenizer", str(tmp_path / "model"), "--max-tokens"]
    assert command(*measured, str(length - 1)) == 1
    assert f"has more than {length - 1} tokens" in capsys.readouterr().err
    assert command(*measured, str(length)) == 0
    assert pq.read_table(out).num_rows == 1


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["nothing.jsonl", "--out", "out.parquet"], "nothing.jsonl: no such file"),
        (["traces.jsonl", "--out", "out.json"], "expected a name that ends in .parquet"),
        (["traces.jsonl", "--out", "out.parquet", "--max-tokens", "9"], "--max-tokens and --tokenizer go together"),
        (
            ["traces.jsonl", "--out", "out.parquet", "--tag-open", "<x>"],
            "arpo.tag_open='<x>'; expected a text with {tool}",
        ),
        (["empty.jsonl", "--out", "out.parquet"], "no row is left of 0, nothing was written; it is empty"),
    ],
)
def test_what_can_not_work_is_refused_before_anything_is_written(tmp_path, monkeypatch, capsys, words, problem):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "traces.jsonl").write_text(GOOD_LINE + "\n")
    (tmp_path / "empty.jsonl").write_text("")
    assert command(*words) == 1
    assert problem in capsys.readouterr().err
    assert not list(tmp_path.glob("*out*"))
