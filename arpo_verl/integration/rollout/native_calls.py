"""Reads the calls of a turn in verl's tool-call formats, those included that verl's parsers drop without a word.

verl 0.9.1 (`experimental/agent_loop/tool_parser.py`) logs a call that it can't read, or not even that, and the turn
looks as if it had none. Here such a call becomes one with an error, which the model gets to read. Nothing is guessed:
a call that is not in its format is answered and not repaired. `hermes` is read here as a whole, because verl ends a
call at the first `</tool_call>`, also where that stands inside of a JSON text.

What stands before the last `</think>` is no call that could be wrong: a thought may mention the markers.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from arpo_verl.rollout.tool_text import valid_text

UNKNOWN_TOOL = "unknown"
"""The tool under which calls are counted that name none of the prompt's tools."""


@dataclass(frozen=True)
class NativeCall:
    """A call as the model wrote it."""

    name: str
    arguments: dict[str, Any]
    id: str | None = None
    error: str | None = None
    """What is wrong with it, in words for the model."""


@dataclass(frozen=True)
class CallFormat:
    """How a tool-call format writes a call."""

    example: str
    markers: tuple[str, ...]
    """In the order in which a call has them."""
    attempts: tuple[str, ...]
    """Regular expressions; a turn has as many calls as the one of them that matches most often."""


_PARAMETERS = "<parameter=KEY>VALUE</parameter>"
_DSML = "\uff5cDSML\uff5c"
FORMATS = {
    "hermes": CallFormat(
        '{"name": NAME, "arguments": {KEY: VALUE}} between the two tool_call tags',
        ("<tool_call>", "</tool_call>"),
        (),
    ),
    "qwen3_coder": CallFormat(
        f"<tool_call><function=NAME>{_PARAMETERS}</function></tool_call>",
        ("<tool_call>", "<function=", "</function>", "</tool_call>", "<parameter=", "</parameter>"),
        (r"<tool_call>(?=\s*<)", "<function=", "</tool_call>"),
    ),
    "glm": CallFormat(
        "<tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>",
        ("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
        (r"<tool_call>(?=[^<]*<arg_key>)", "</tool_call>"),
    ),
    "seed": CallFormat(
        f"<seed:tool_call><function=NAME>{_PARAMETERS}</function></seed:tool_call>",
        ("<seed:tool_call>", "<function=", "</function>", "</seed:tool_call>", "<parameter=", "</parameter>"),
        (r"<seed:tool_call>(?=\s*<)", "<function=", "</seed:tool_call>"),
    ),
    "minimax": CallFormat(
        '<minimax:tool_call><invoke name="NAME"><parameter name="KEY">VALUE</parameter></invoke></minimax:tool_call>',
        (
            "<minimax:tool_call>",
            "<invoke name=",
            "</invoke>",
            "</minimax:tool_call>",
            "<parameter name=",
            "</parameter>",
        ),
        (r"<minimax:tool_call>(?=\s*<)", r"<invoke\b", "</minimax:tool_call>"),
    ),
    "kimi": CallFormat(
        "<|tool_calls_section_begin|><|tool_call_begin|>NAME<|tool_call_argument_begin|>{KEY: VALUE}<|tool_call_end|>"
        "<|tool_calls_section_end|>",
        (
            "<|tool_calls_section_begin|>",
            "<|tool_call_begin|>",
            "<|tool_call_argument_begin|>",
            "<|tool_call_end|>",
            "<|tool_calls_section_end|>",
        ),
        (r"<\|tool_calls_section_begin\|>", r"<\|tool_call_begin\|>"),
    ),
    "deepseek_v4": CallFormat(
        f'<{_DSML}tool_calls><{_DSML}invoke name="NAME"><{_DSML}parameter name="KEY" string="true">VALUE'
        f"</{_DSML}parameter></{_DSML}invoke></{_DSML}tool_calls>",
        (
            f"<{_DSML}tool_calls>",
            f"<{_DSML}invoke name=",
            f"</{_DSML}invoke>",
            f"</{_DSML}tool_calls>",
            f"<{_DSML}parameter name=",
            f"</{_DSML}parameter>",
        ),
        (f"<{_DSML}tool_calls>", f"<{_DSML}invoke"),
    ),
    "gemma4": CallFormat(
        '<|tool_call>call:NAME{KEY:<|"|>TEXT<|"|>,KEY:NUMBER}<tool_call|>',
        ("<|tool_call>", "<tool_call|>"),
        (r"<\|tool_call>", r"<tool_call\|>"),
    ),
    "gpt-oss": CallFormat(
        "<|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{KEY: VALUE}<|call|>",
        ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|call|>"),
        (r"<\|call\|>", r"<\|channel\|>commentary to=functions\."),
    ),
}
DEPTH_TO_SPARE = 50
"""How much deeper than it is a value may be read: verl and chat templates read it again, from deeper in the program."""
_THOUGHT_END = "</think>"
_GPT_OSS_THOUGHT, _GPT_OSS_END = "<|channel|>analysis<|message|>", "<|end|>"
_KIMI_CALL = re.compile(r"<\|tool_call_begin\|>.*?<\|tool_call_argument_begin\|>(.*?)<\|tool_call_end\|>", re.DOTALL)
_ANGLES = re.compile(r"<([^<>]*)>")
_BLANK = re.compile(r"\s*")
_OTHER_MARKER = re.compile(r"<( */? *(?:tool|function)[ _-]?calls? *)>\s*\{\s*[\"']", re.IGNORECASE)
"""An opening tag that is nearly hermes' own, with what looks like a call behind it."""
_CALL_LIKE = re.compile(r"\s*[\[{\"'`]")
"""How the inside of a `<tool_call>` begins that is no mere mention of the marker."""
_HINTS = (
    (re.compile(r"\s*```"), "leave out the code fence"),
    (re.compile(r"\s*[\[{]\s*'"), 'JSON has double quotes, as in {"name": "x"}'),
    (re.compile(r"[^,]*(?:,(?!\s*[}\]])[^,]*)*,\s*[}\]]"), "no comma before a closing bracket"),
)


def plain_json(text: str) -> Any:
    """Return the value of a JSON text, without lone surrogates.

    Raises:
        ValueError: it is not valid JSON, or not to be represented: too deep, or a number of too many digits.
    """
    try:
        value = json.loads(text)
        plain = valid_text(json.dumps(value, ensure_ascii=False))
        nested = json.loads("[" * DEPTH_TO_SPARE + plain + "]" * DEPTH_TO_SPARE)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    for _ in range(DEPTH_TO_SPARE):
        [nested] = nested
    return nested


def read_hermes(text: str, is_over: bool) -> tuple[str, list[NativeCall]]:
    """Return a turn's text without its calls, and its calls in order.

    Args:
        text: the turn.
        is_over: the model has ended the turn; only then can a call that is not closed be one that went wrong.
    """
    opening, closing = FORMATS["hermes"].markers
    thought = text.rfind(_THOUGHT_END)
    calls: list[NativeCall] = []
    kept: list[str] = []
    end = 0
    while (found := _next_marker(text, end)) is not None:
        start, marker = found
        inside = start + len(marker)
        call: NativeCall | None = None
        if marker == closing:
            stop = inside
            call = _wrong("a closing tool_call tag has no opening one before it")
        elif (end_of_call := _end_of_call(text, inside)) is not None:
            stop = end_of_call
            call = _hermes_call(text[inside : stop - len(closing)])
        else:
            following = text.find(opening, inside)
            stop = inside
            if _CALL_LIKE.match(text, inside) and (is_over or following >= 0):
                stop = len(text) if following < 0 else following
                call = _wrong("an opening tool_call tag has no closing one after it")
        is_call = call is not None and (call.error is None or start > thought)
        kept.append(text[end : start if is_call else stop])
        if call is not None and is_call:
            calls.append(call)
        end = stop
    if not calls and is_over and (other := _OTHER_MARKER.search(_after_thought(text))):
        return text, [_wrong(f"its tag is {other[1]!r}; expected 'tool_call'")]
    return "".join(kept) + text[end:], calls


def _next_marker(text: str, begin: int) -> tuple[int, str] | None:
    places = [(place, marker) for marker in FORMATS["hermes"].markers if (place := text.find(marker, begin)) >= 0]
    return min(places, default=None)


def _end_of_call(text: str, begin: int) -> int | None:
    """Return where the call ends whose inside begins at `begin`; None where it is not closed before the next one."""
    opening, closing = FORMATS["hermes"].markers
    if closing not in text[begin:]:
        return None
    try:
        _, end = json.JSONDecoder().raw_decode(text, _BLANK.match(text, begin).end())  # type: ignore[union-attr]
    except (ValueError, RecursionError):
        end = begin
    stop, following = text.find(closing, end), text.find(opening, end)
    return stop + len(closing) if stop >= 0 and (following < 0 or stop < following) else None


def _hermes_call(content: str) -> NativeCall:
    try:
        call = plain_json(content)
    except ValueError as error:
        return _wrong(f"it is not valid JSON ({_without_context(error)}){_hint(content)}")
    if isinstance(call, list):
        return _wrong(f"it is a list of {len(call)}; write one object in each pair of tool_call tags")
    if not isinstance(call, dict):
        return _wrong(f"it is {json.dumps(call)[:50]}; expected an object")
    name = call.get("name")
    if not isinstance(name, str):
        return _wrong(f"its name is {json.dumps(name)[:50] if 'name' in call else 'missing'}; expected a text")
    if "arguments" not in call:
        keys = ", ".join(map(repr, call))
        return _wrong(f"it has no 'arguments' but {keys[:200]}", name)
    if not isinstance(call["arguments"], dict):
        found = json.dumps(call["arguments"], ensure_ascii=False)[:100]
        return _wrong(f"its arguments are {found}; expected an object", name)
    return NativeCall(name, call["arguments"])


def _wrong(problem: str, name: str = UNKNOWN_TOOL, form: str = "hermes") -> NativeCall:
    expected = FORMATS[form].example
    if _ANGLES.search(expected):
        expected = f"{_ANGLES.sub(_squared, expected)} with angle brackets for the square ones"
    return NativeCall(name, {}, error=f"Error: this tool call can't be read: {problem}. Expected {expected}.")


def _squared(tag: re.Match[str]) -> str:
    """A result may hold no tags (`arpo_verl.rollout.tool_text`), also where it explains them."""
    return f"[{tag[1]}]"


def _without_context(error: ValueError) -> str:
    return f"{error.msg} at character {error.pos}" if isinstance(error, json.JSONDecodeError) else str(error)


def _hint(content: str) -> str:
    if "\n" in content.strip() and _is_valid_without_line_ends(content):
        return "; write a line feed in a text as \\n"
    return next((f"; {hint}" for pattern, hint in _HINTS if pattern.match(content)), "")


def _is_valid_without_line_ends(content: str) -> bool:
    try:
        json.loads(content, strict=False)
    except (ValueError, RecursionError):
        return False
    return True


def read_parsed(form: str, text: str, found: Sequence[Any], is_over: bool) -> list[NativeCall]:
    """Return the calls that verl's parser has found, and one with an error for those that it has dropped.

    Args:
        form: verl's name of the format; one that is not known here has no errors but those in arguments.
        text: the turn.
        found: verl's `FunctionCall`s.
        is_over: the model has ended the turn.
    """
    calls = [_from_parsed(call) for call in found]
    if form == "kimi":
        calls = _with_kimi_errors(calls, text)
    if form not in FORMATS or not is_over:
        return calls
    written = _attempts(FORMATS[form], text, found)
    dropped = written - len(found)
    if dropped > 0:
        rest = _after_thought(text)
        missing = [marker for marker in FORMATS[form].markers if marker not in rest and "parameter" not in marker]
        problem = f"'{missing[0].strip('<>')}' is missing" if missing else "it is not in the format"
        count = f"{dropped} of the turn's {written} calls: " if written > 1 else ""
        calls.append(_wrong(count + problem, form=form))
    return calls


def _from_parsed(call: Any) -> NativeCall:
    name, number = valid_text(call.name), None if call.tool_call_id is None else valid_text(call.tool_call_id)
    try:
        arguments = plain_json(call.arguments)
    except ValueError as error:
        return NativeCall(name, {}, number, f"Invalid JSON in arguments for '{name}': {error}")
    if not isinstance(arguments, dict):
        problem = f"Arguments for '{name}' are {arguments!r}; expected a JSON object"
        return NativeCall(name, {}, number, problem)
    return NativeCall(name, arguments, number)


def _with_kimi_errors(calls: list[NativeCall], text: str) -> list[NativeCall]:
    """verl takes arguments that are not a JSON object for none at all."""
    written = _KIMI_CALL.findall(text) if calls else []
    if len(written) != len(calls):
        return calls
    checked = []
    for call, arguments in zip(calls, written, strict=True):
        error = call.error
        try:
            if not isinstance(plain_json(arguments), dict):
                error = f"Arguments for '{call.name}' are {arguments[:100]!r}; expected a JSON object"
        except ValueError as problem:
            error = f"Invalid JSON in arguments for '{call.name}': {problem}"
        checked.append(NativeCall(call.name, call.arguments, call.id, error))
    return checked


def _after_thought(text: str) -> str:
    *thoughts, rest = text[text.rfind(_THOUGHT_END) + 1 :].split(_GPT_OSS_END)
    return "".join(thought.partition(_GPT_OSS_THOUGHT)[0] for thought in thoughts) + rest


def _attempts(form: CallFormat, text: str, found: Sequence[Any]) -> int:
    """Return how many calls a turn has tried to write; an argument that holds markers is none."""
    rest = _after_thought(text)
    for call in found:
        try:
            values = [value for value in json.loads(call.arguments).values() if isinstance(value, str)]
        except (ValueError, RecursionError, AttributeError):
            values = []
        for value in values:
            if any(marker in value for marker in form.markers):
                rest = rest.replace(value, "", 1)
    return max(len(re.findall(pattern, rest, re.DOTALL)) for pattern in form.attempts)
