"""Traces of tool use as verl's multi-turn SFT parquet: columns `messages` and `tools`, for a cold start.

Two kinds of traces are read: those whose tool results stand inside the assistant's text (`<search>..</search>
<result>..</result>`, the published ARPO and Tool-Star traces) and those that have them in messages of role `tool`. Both
become messages in which a result is a `tool` message of its own, so that training can leave it out of the loss
(`arpo_verl.integration.training.trace_dataset`). A trace that the rollout could not have produced is a bad row; none is
dropped silently.

`tool_calls` of a message and `tools` of a row are JSON text, because parquet gives all structs of a column the same
keys, and a call's arguments would gain those of all other calls.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from arpo_verl.data.fields import RowError
from arpo_verl.data.parquet_output import RowCounts, write_parquet
from arpo_verl.data.source import Source
from arpo_verl.data.trace_rows import TEXT_FIELDS, Message, read_messages, read_tools
from arpo_verl.data.trace_tokens import PROMPT_ROLES
from arpo_verl.rollout.tag_syntax import Tags, first_call

Syntax = Literal["tags", "native"]

TRACE_SCHEMA = pa.schema(
    [
        pa.field(
            "messages",
            pa.list_(
                pa.struct([("role", pa.string()), ("content", pa.string()), ("tool_calls", pa.string())]),
            ),
        ),
        pa.field("tools", pa.string()),
    ]
)

_TAGS = b"arpo_verl.tags"
"""Key in the metadata of the file's schema."""


def with_tags(schema: pa.Schema, tags: Tags) -> pa.Schema:
    """Return a schema whose file tells how the calls and results of its traces are written."""
    return schema.with_metadata({_TAGS: json.dumps(asdict(tags) | {"tools": list(tags.tools)}).encode()})


def tags_of(file: str | Path) -> Tags | None:
    """Return how the traces of a file that `convert_traces` has written are written; None where it does not say."""
    metadata = pq.read_schema(file).metadata or {}
    return Tags(**json.loads(metadata[_TAGS])) if _TAGS in metadata else None


@dataclass(frozen=True)
class TraceOptions:
    """The options by which rows are read as traces."""

    tags: Tags
    """The tags in which calls and results are written."""
    syntax: Syntax = "tags"
    """`tags`, or `native` for the model's own tool-call format."""
    system_prompt: str | None = None
    """A system prompt that replaces each trace's own; None keeps that."""
    joins_instruction: bool = False
    """Whether an alpaca row's `instruction` is the beginning of the question; else it is the system prompt."""
    count_tokens: Callable[[list[Message], Any], int] | None = None
    """A function that counts the tokens of a trace, given its messages and tools."""
    max_tokens: int | None = None
    """The number of tokens above which a trace is a bad row."""


@dataclass
class TraceCounts(RowCounts):
    """The counts of a conversion's rows, and of the calls in their traces."""

    calls: Counter[str] = field(default_factory=Counter)
    """The number of calls by tool, in the traces that were written."""
    without_calls: int = 0
    """The number of written traces that call no tool."""


def convert_traces(source: Source, out: Path, options: TraceOptions, skip_bad_rows: bool) -> TraceCounts:
    """Write traces as one parquet of `TRACE_SCHEMA`, with its tags; the file appears when it is complete.

    Raises:
        ValueError: rows are bad (unless `skip_bad_rows`), or none is left, or the source as a whole is bad.
        OSError: reading or writing failed.
    """
    result = TraceCounts()

    def check() -> None:
        if not skip_bad_rows:
            result.refuse_bad_rows()
        result.refuse_empty_output(source.label)

    schema = with_tags(TRACE_SCHEMA, options.tags) if options.syntax == "tags" else TRACE_SCHEMA
    write_parquet(out, schema, _good_traces(source, options, result), check)
    return result


def _good_traces(source: Source, options: TraceOptions, result: TraceCounts) -> Iterator[dict[str, Any]]:
    for number, row in source.rows():
        result.read += 1
        try:
            if isinstance(row, RowError):
                raise row
            trace = convert_trace(row, options)
        except RowError as error:
            result.add_bad(f"{source.label}, row {number}", error)
            continue
        result.written += 1
        calls = list(calls_of(trace["messages"], options.tags))
        result.calls.update(calls)
        result.without_calls += not calls
        yield trace


def convert_trace(row: Mapping[Any, Any], options: TraceOptions) -> dict[str, Any]:
    """Return a trace as a row of `TRACE_SCHEMA`.

    Raises:
        RowError: a field is missing, or the rollout could not have produced the trace.
    """
    messages = _with_system_prompt(read_messages(row, options.joins_instruction), options.system_prompt)
    tools = read_tools(row)
    name = next(name for name in TEXT_FIELDS if row.get(name) is not None)
    try:
        messages = _checked(messages, options)
    except RowError as error:
        raise RowError(f"field {name!r}: {error}") from error
    if options.count_tokens is not None and options.max_tokens is not None:
        tokens = options.count_tokens(messages, tools)
        if tokens > options.max_tokens:
            raise RowError(f"has more than {options.max_tokens} tokens; expected at most as many: raise --max-tokens")
    return {
        "messages": [
            dict(message, tool_calls=json.dumps(message["tool_calls"]) if message.get("tool_calls") else None)
            for message in messages
        ],
        "tools": json.dumps(tools) if tools else None,
    }


def _checked(messages: list[Message], options: TraceOptions) -> list[Message]:
    prompt = list(takewhile(lambda message: message["role"] in PROMPT_ROLES, messages))
    if not prompt or prompt[-1]["role"] != "user":
        raise RowError("no question; expected a user's message before the first of the assistant")
    if options.syntax == "tags":
        return prompt + tag_turns(messages[len(prompt) :], options.tags)
    _check_native(messages)
    return messages


def tag_turns(messages: list[Message], tags: Tags) -> list[Message]:
    """Return what follows the prompt as assistant and tool messages in turn, results taken out of the texts.

    The white space around a result is not kept: the rollout puts its own there.

    Raises:
        RowError: a result follows no call, a call has no result, or the trace does not end with an answer.
    """
    turns: list[Message] = []
    for message in messages:
        if message.get("tool_calls"):
            raise RowError("has native tool calls; expected calls in tags: convert it with --syntax native")
        if message["role"] == "assistant":
            turns += _split_results(message["content"], tags)
        elif message["role"] == "tool":
            turns.append({"role": "tool", "content": message["content"].strip()})
        else:
            raise RowError(f"a {message['role']}'s message follows the assistant's; expected one question, one answer")
    for number, turn in enumerate(turns):
        follows = turns[number + 1]["role"] if number + 1 < len(turns) else None
        _check_turn(turn, follows, number, tags)
    if not turns or turns[-1]["role"] != "assistant":
        raise RowError("does not end with the assistant's text; expected an answer after the last result")
    return turns


def _split_results(text: str, tags: Tags) -> list[Message]:
    before, after = tags.result_borders
    opening, closing, end_of_mark = before.strip(), after.strip(), after[len(after.rstrip()) :]
    turns = []
    # A template without marks around the result leaves nothing to find: results are messages of their own then.
    while opening and closing and opening in text:
        written, _, rest = text.partition(opening)
        result, end, text = rest.partition(closing)
        if not end:
            raise RowError(f"{opening} has no {closing} after it")
        turns.append({"role": "assistant", "content": written.rstrip()})
        turns.append({"role": "tool", "content": result.strip()})
        text = text.removeprefix(end_of_mark)
    # Nothing but white space after a result: the trace goes on in the next message, or has no answer.
    return [*turns, {"role": "assistant", "content": text}] if text.strip() or not turns else turns


def _check_turn(turn: Message, follows: str | None, number: int, tags: Tags) -> None:
    """Raise RowError unless the rollout would have gone from this turn to the next."""
    if turn["role"] == "tool":
        if number == 0 or follows == "tool":
            raise RowError("a result follows no call; expected the assistant's text with a call before it")
        return
    text = turn["content"]
    if not text.strip():
        raise RowError("an assistant's text is empty; expected a call or an answer")
    found = first_call(text, tags)
    names = ", ".join(tags.tools)
    if follows == "assistant":
        raise RowError("two assistant's messages in a row; expected a result between them")
    if follows == "tool":
        if found is None:
            raise RowError(f"a result follows no call of {names}: correct it, or name the tool in --tools")
        call, end = found
        if call.error is not None:
            raise RowError(f"a call is no call: {call.error}")
        if text[end:].strip():
            raise RowError(f"a call of {call.name} is not followed by its result: the rollout would have run it")
        turn["content"] = text[:end]
    elif found is not None:
        raise RowError(f"a call of {found[0].name} is not followed by its result: the rollout would have run it")


def _with_system_prompt(messages: list[Message], system_prompt: str | None) -> list[Message]:
    if system_prompt is None:
        return messages
    rest = [message for message in messages if message["role"] != "system"]
    return [{"role": "system", "content": system_prompt}, *rest]


def _check_native(messages: list[Message]) -> None:
    if messages[-1]["role"] != "assistant":
        raise RowError(f"ends with a {messages[-1]['role']}'s message; expected the assistant's answer")
    if messages[-1].get("tool_calls"):
        raise RowError("ends with a call; expected its result and the assistant's answer")
    for before, message in pairwise(messages):
        if message["role"] == "tool" and before["role"] not in ("assistant", "tool"):
            raise RowError("a result follows no call; expected an assistant's message before it")
        if before.get("tool_calls") and message["role"] != "tool":
            raise RowError("a call is not followed by its result")


def calls_of(messages: list[Message], tags: Tags) -> Iterator[str]:
    """Yield the name of the tool of each call of a converted trace, or `tool` where only the result tells of it."""
    for message, following in pairwise(messages):
        if following["role"] != "tool":
            continue
        if message.get("tool_calls"):
            yield from (call["function"]["name"] for call in json.loads(message["tool_calls"]))
        else:
            found = first_call(message["content"], tags)
            yield found[0].name if found else "tool"
