"""Whether the arguments of a call fit the tool: the one place where a call is the model's own error by its arguments.

What a tool raises is the tool's failure, but for `arpo_tools.ArgumentError`. Therefore types and choices are looked at
here, before the tool would stumble over them.
"""

import json
import math
from typing import Any

import jsonschema
from verl.tools.base_tool import BaseTool
from verl.tools.function_tool import FunctionTool

from arpo_tools import ArgumentError
from arpo_verl.integration.rollout.native_calls import plain_json

_LONGEST_VALUE = 100
"""Characters of a wrong value that the model is shown."""


def fitted(tool: BaseTool | FunctionTool, call: str | dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call as the tool's schema has them.

    A text for a parameter that is none is read as JSON, because tags hold nothing but text and models quote numbers; a
    number for a text becomes its digits. Null for a parameter that may be left out leaves it out.

    Args:
        tool: verl's.
        call: the text of a tag, which is the one required parameter's, or the arguments by name.

    Raises:
        ArgumentError: a parameter is missing, unknown, of another type or none of the choices.
    """
    arguments = {parameter_of(tool): call} if isinstance(call, str) else call
    parameters = tool.tool_schema.function.parameters
    missing = [name for name in parameters.required if name not in arguments]
    unknown = [name for name in arguments if name not in parameters.properties]
    if missing or unknown:
        expected = ", ".join(parameters.properties) or "none"
        raise ArgumentError(f"'{tool.name}' got the arguments {sorted(arguments)}; expected {expected}.")
    values = {}
    for name, value in arguments.items():
        schema = parameters.properties[name].model_dump(exclude_none=True, include={"type", "enum"})
        if value is None and name not in parameters.required and not _fits(None, schema):
            continue
        value = _read(value, schema)
        if not _fits(value, schema):
            shown = json.dumps(value, ensure_ascii=False, default=str)[:_LONGEST_VALUE]
            raise ArgumentError(f"'{tool.name}' got {name}={shown}; expected {_described(schema)}.")
        values[name] = value
    return values


def parameter_of(tool: BaseTool | FunctionTool) -> str:
    """Return the name of a tool's one required parameter.

    Raises:
        ValueError: it has none or several.
    """
    required = list(tool.tool_schema.function.parameters.required)
    if len(required) != 1:
        raise ValueError(
            f"tool {tool.name!r} requires the parameters {required}; expected exactly one, because a tag holds one "
            f"text: give the others defaults"
        )
    return str(required[0])


def _fits(value: Any, schema: dict[str, Any]) -> bool:
    if isinstance(value, float) and not math.isfinite(value):  # which JSON has not, and Python reads all the same
        return False
    try:
        return bool(jsonschema.Draft202012Validator(schema).is_valid(value))
    except jsonschema.exceptions.UnknownType:  # `str` and the like, of which verl is as tolerant
        return True


def _read(value: Any, schema: dict[str, Any]) -> Any:
    """Return the value that a model has written in another type, if that is plain; else the value."""
    read = value
    if not _fits(value, schema):
        if isinstance(value, str):
            read = _from_text(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            read = json.dumps(value)
    if not _fits(read, schema):
        return value
    is_whole = isinstance(read, float) and read.is_integer() and "number" not in _types(schema)
    return int(read) if is_whole else read


def _from_text(text: str) -> Any:
    """Return the value of a JSON text, or of a boolean as Python writes it; the text where it is neither."""
    stripped = text.strip()
    try:
        return plain_json(stripped.lower() if stripped in ("True", "False") else stripped)
    except ValueError:
        return text


def _types(schema: dict[str, Any]) -> list[str]:
    return schema["type"] if isinstance(schema["type"], list) else [schema["type"]]


def _described(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return f"one of {json.dumps(schema['enum'], ensure_ascii=False, default=str)}"
    return " or ".join(_types(schema))
