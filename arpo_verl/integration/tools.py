"""Tools on both sides of verl's interface: ours as verl's `BaseTool`, any of verl's as the scheduler's `Tools`."""

import json
import logging
from typing import Any
from uuid import uuid4

from verl.tools.base_tool import BaseTool
from verl.tools.function_tool import FunctionTool, normalize_function_tool_return
from verl.tools.schemas import OpenAIFunctionToolSchema, ToolResponse

from arpo_tools import LocalSearch, PythonInterpreter, Tool, ToolStatus
from arpo_verl.rollout.protocols import ToolAnswer, ToolCall

logger = logging.getLogger(__name__)


def _schema(name: str, description: str, parameter: str, parameter_description: str) -> OpenAIFunctionToolSchema:
    properties = {parameter: {"type": "string", "description": parameter_description}}
    parameters = {"type": "object", "properties": properties, "required": [parameter]}
    function = {"name": name, "description": description, "parameters": parameters}
    return OpenAIFunctionToolSchema.model_validate({"type": "function", "function": function})


class _ArpoTool(BaseTool):
    """One of our tools behind verl's interface. Stateless: `create` and `release` have nothing to do."""

    def __init__(self, tool: Tool, schema: OpenAIFunctionToolSchema) -> None:
        # Not verl's constructor, which prints the schema in every worker.
        self.config: dict[str, Any] = {}
        self.tool_schema = schema
        self.name = tool.name
        self._tool = tool

    async def create(self, instance_id: str | None = None, **kwargs: Any) -> tuple[str, ToolResponse]:
        return instance_id or uuid4().hex, ToolResponse()

    async def execute(
        self, instance_id: str, parameters: dict[str, Any], **kwargs: Any
    ) -> tuple[ToolResponse, float, dict[str, Any]]:
        text = next(iter(parameters.values()), "")
        result = await self._tool.run(str(text))
        return ToolResponse(text=result.text), 0.0, {"status": result.status.value}


def _options(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "type"}


def _remote_python(options: dict[str, Any]) -> Tool:
    from arpo_tools.remote_python import RemotePython  # it imports aiohttp, which a local interpreter doesn't need

    return RemotePython(**options)


class PythonTool(_ArpoTool):
    """`arpo_tools.PythonInterpreter`, or `RemotePython` where there is a `base_url`; `config` has their fields."""

    def __init__(self, config: dict[str, Any], tool_schema: OpenAIFunctionToolSchema | None = None) -> None:
        description = (
            "Run Python code in a fresh interpreter; prints and the value of the last expression are returned."
        )
        schema = tool_schema or _schema("python", description, "code", "The program to run.")
        options = _options(config)
        super().__init__(_remote_python(options) if "base_url" in options else PythonInterpreter(**options), schema)


class SearchTool(_ArpoTool):
    """`arpo_tools.LocalSearch`; the keys under `config` are its arguments."""

    def __init__(self, config: dict[str, Any], tool_schema: OpenAIFunctionToolSchema | None = None) -> None:
        schema = tool_schema or _schema("search", "Search a corpus of passages.", "query", "The words to look for.")
        super().__init__(LocalSearch(**_options(config)), schema)


class VerlTools:
    """Calls verl's tools with the text of a tag. A tag has one text, so a tool needs exactly one required parameter."""

    def __init__(
        self, tools: dict[str, BaseTool | FunctionTool], tools_kwargs: dict[str, Any], limit: int, truncate_side: str
    ) -> None:
        """
        Args:
            tools: by name, which is also the tag.
            tools_kwargs: verl's per-sample `create_kwargs`, by tool name.
            limit: characters of a result that the model sees (`multi_turn.max_tool_response_length`).
            truncate_side: `left`, `right` or `middle` (`multi_turn.tool_response_truncate_side`).
        """
        self._tools = tools
        self._tools_kwargs = tools_kwargs
        self._limit = limit
        self._truncate_side = truncate_side

    async def execute(self, call: ToolCall) -> ToolAnswer:
        """Execute a call. Whatever the tool raises becomes an answer, as in verl's own `ToolAgentLoop._call_tool`."""
        tool = self._tools[call.name]
        try:
            arguments = {parameter_of(tool): call.text}
            if isinstance(tool, FunctionTool):
                response, _, metrics = normalize_function_tool_return(await tool.call(arguments))
            else:
                response, metrics = await self._execute_instance(tool, arguments)
        except Exception as error:
            logger.exception("tool %r failed on %s", call.name, json.dumps(call.text[:200]))
            return ToolAnswer(f"Error executing tool {call.name!r}: {error}", ToolStatus.INFRASTRUCTURE_ERROR.value)
        text = truncate(response.text or "", self._limit, self._truncate_side)
        return ToolAnswer(text, str((metrics or {}).get("status", ToolStatus.OK.value)))

    async def _execute_instance(self, tool: BaseTool, arguments: dict[str, str]) -> tuple[ToolResponse, dict[str, Any]]:
        create_kwargs = self._tools_kwargs.get(tool.name, {}).get("create_kwargs", {})
        instance_id, _ = await tool.create(create_kwargs=create_kwargs)
        try:
            response, _, metrics = await tool.execute(instance_id, arguments)
        finally:
            await tool.release(instance_id)
        return response, metrics


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


def truncate(text: str, limit: int, side: str) -> str:
    """Shorten a result to `limit` characters with verl's marks (verl 0.9.1, `tool_agent_loop.py`, `_call_tool`)."""
    if len(text) <= limit:
        return text
    if side == "left":
        return "(truncated)..." + text[-limit:]
    if side == "right":
        return text[:limit] + "...(truncated)"
    half = limit // 2
    return text[:half] + "...(truncated)..." + text[-half:]
