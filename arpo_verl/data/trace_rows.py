"""Reads a trace's messages and tools from the formats of public traces: OpenAI's, ShareGPT's and alpaca's."""

import json
from collections.abc import Mapping
from typing import Any

from arpo_verl.data.fields import RowError, check_unicode

Message = dict[str, Any]

TEXT_FIELDS = ("messages", "conversations", "output")
"""The fields that may have the assistant's text; the first that a row has is used."""
_ROLES = {
    **{role: role for role in ("system", "user", "assistant", "tool")},
    # ShareGPT's names.
    **{"human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "tool"},
}


def read_messages(row: Mapping[Any, Any], joins_instruction: bool) -> list[Message]:
    """Return a row's messages with the roles system, user, assistant and tool.

    Args:
        row: with `messages`, `conversations` (`role` and `content`, or `from` and `value`) or alpaca's fields; `system`
            is put before them.
        joins_instruction: whether alpaca's `instruction` begins the question; else it is the system prompt.

    Raises:
        RowError: a field is missing or of the wrong kind.
    """
    name = next((name for name in TEXT_FIELDS if row.get(name) is not None), None)
    if name is None:
        got = ", ".join(str(name) for name in row) or "no field"
        raise RowError(f"no field 'messages', 'conversations' or 'output'; got {got}")
    if name == "output":
        messages = _read_alpaca(row, joins_instruction)
    elif isinstance(row[name], list) and row[name]:
        messages = [_read_message(f"{name}[{index}]", message) for index, message in enumerate(row[name])]
    else:
        raise RowError(f"field {name!r} is not a list of messages")
    system = row.get("system")
    if system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": _text("system", system)})
    return messages


def _read_alpaca(row: Mapping[Any, Any], joins_instruction: bool) -> list[Message]:
    instruction, question = (_text(name, row.get(name) or "") for name in ("instruction", "input"))
    if not instruction.strip() and not question.strip():
        raise RowError("fields 'instruction' and 'input' are empty; expected a question in one of them")
    answer = {"role": "assistant", "content": _text("output", row["output"])}
    if not question.strip() or not instruction.strip() or joins_instruction:
        question = "\n".join(text for text in (instruction, question) if text.strip())
        return [{"role": "user", "content": question}, answer]
    return [{"role": "system", "content": instruction}, {"role": "user", "content": question}, answer]


def _read_message(path: str, message: Any) -> Message:
    if not isinstance(message, Mapping):
        raise RowError(f"field {path!r} is a {type(message).__name__}; expected an object with 'role' and 'content'")
    name = message.get("role", message.get("from"))
    role = _ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise RowError(f"field {path!r} has the role {name!r}; expected one of {', '.join(_ROLES)}")
    content = message.get("content", message.get("value"))
    if name == "function_call":
        call = {"function": _json(f"{path}.value", content)}
        return {"role": role, "content": "", "tool_calls": _read_calls(path, [call])}
    calls = message.get("tool_calls")
    text = _text(f"{path}.content", "" if content is None and calls else content)
    read: Message = {"role": role, "content": text}
    if calls:
        read["tool_calls"] = _read_calls(path, _json(f"{path}.tool_calls", calls))
    return read


def _read_calls(path: str, calls: Any) -> list[dict[str, Any]]:
    """Return calls as chat templates take them, with the arguments as an object."""
    read = []
    for index, call in enumerate(calls if isinstance(calls, list) else [None]):
        place = f"{path}.tool_calls[{index}]"
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise RowError(f"field {place!r} names no function; expected {{'function': {{'name', 'arguments'}}}}")
        arguments = _json(f"{place}.function.arguments", function.get("arguments") or {})
        if not isinstance(arguments, Mapping):
            raise RowError(f"field '{place}.function.arguments' is not an object; expected names and values")
        function = {"name": function["name"], "arguments": dict(arguments)}
        read.append({"type": "function", "function": function})
    return read


def read_tools(row: Mapping[Any, Any]) -> Any:
    """Return the schemas of a row's tools, or None.

    Raises:
        RowError: they are not a list of objects.
    """
    tools = row.get("tools")
    if not tools:
        return None
    tools = _json("tools", tools)
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise RowError("field 'tools' is not a list of objects; expected the tools' schemas")
    return tools


def _json(path: str, value: Any) -> Any:
    """Return a value that may be written as JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise RowError(f"field {path!r} is text, but not valid JSON: {error}") from error


def _text(path: str, value: Any) -> str:
    if not isinstance(value, str):
        raise RowError(f"field {path!r} is a {type(value).__name__}; expected text")
    check_unicode(path, value)
    return value
