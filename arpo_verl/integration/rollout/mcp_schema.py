"""The schemas of an MCP server's tools as verl's, with all that they say of a parameter.

verl's own classes keep a parameter's type, description and choices, and demand a type (verl 0.9.1,
`tools/schemas.py`); an MCP server may write `anyOf`, `$ref`, nested objects and lists.
"""

from typing import Any

from pydantic import ConfigDict
from verl.tools.schemas import (
    OpenAIFunctionParametersSchema,
    OpenAIFunctionPropertySchema,
    OpenAIFunctionSchema,
    OpenAIFunctionToolSchema,
)

ALL_TYPES = ["string", "number", "integer", "boolean", "object", "array", "null"]
DEEPEST = 20
"""References within references that are followed; what is deeper, or refers to itself, is shown as an object."""


class McpProperty(OpenAIFunctionPropertySchema):
    """A parameter with every key of its schema."""

    model_config = ConfigDict(extra="allow")


class McpParameters(OpenAIFunctionParametersSchema):
    """The parameters of one tool."""

    properties: dict[str, McpProperty]


class McpFunction(OpenAIFunctionSchema):
    """One tool."""

    parameters: McpParameters


class McpSchema(OpenAIFunctionToolSchema):
    """One tool, in OpenAI's format."""

    function: McpFunction


def mcp_schema(name: str, description: str, input_schema: dict[str, Any]) -> McpSchema:
    """Return the schema that the model is shown and calls are compared with.

    Args:
        name: the tool's, as the model calls it.
        description: the tool's.
        input_schema: JSON schema of an object.
    """
    definitions = {**input_schema.get("definitions", {}), **input_schema.get("$defs", {})}
    properties = {
        parameter: _typed(_resolved(schema, definitions, DEEPEST))
        for parameter, schema in (input_schema.get("properties") or {}).items()
    }
    parameters = {"type": "object", "properties": properties, "required": list(input_schema.get("required") or [])}
    function = {"name": name, "description": description, "parameters": parameters}
    schema: McpSchema = McpSchema.model_validate({"type": "function", "function": function})
    return schema


def _resolved(schema: Any, definitions: dict[str, Any], depth: int) -> Any:
    """Return a schema with what it refers to in place, and without titles, which repeat the names."""
    if isinstance(schema, list):
        return [_resolved(one, definitions, depth) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        target = definitions.get(str(schema["$ref"]).rpartition("/")[2])
        if depth == 0 or not isinstance(target, dict):
            return {"type": "object"}
        return _resolved({**target, **{key: schema[key] for key in schema if key != "$ref"}}, definitions, depth - 1)
    return {
        key: {name: _resolved(one, definitions, depth) for name, one in value.items()}
        if key == "properties" and isinstance(value, dict)
        else _resolved(value, definitions, depth)
        for key, value in schema.items()
        if not (key == "title" and isinstance(value, str))
    }


def _typed(schema: Any) -> dict[str, Any]:
    """Return a parameter's schema with a type."""
    if not isinstance(schema, dict):  # true: anything
        return {"type": ALL_TYPES}
    return schema if "type" in schema else {**schema, "type": _types(schema)}


def _types(schema: Any) -> list[str]:
    """Return the types of the values that a schema may take."""
    if not isinstance(schema, dict):
        return ALL_TYPES
    if "type" in schema:
        return schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            return list(dict.fromkeys(kind for one in schema[key] for kind in _types(one)))
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    return list(dict.fromkeys(map(_type_of, values))) if isinstance(values, list) and values else ALL_TYPES


def _type_of(value: Any) -> str:
    kinds = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
    return kinds.get(type(value), "null")
