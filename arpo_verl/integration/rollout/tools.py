"""Tools on both sides of verl's interface: ours as verl's `BaseTool`, any of verl's as the scheduler's `Tools`."""

import inspect
import json
import logging
import math
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from uuid import uuid4

from verl.tools.base_tool import BaseTool
from verl.tools.function_tool import FunctionTool, normalize_function_tool_return
from verl.tools.schemas import OpenAIFunctionToolSchema, ToolResponse

from arpo_tools import ArgumentError, Tool, ToolResult, ToolStatus, open_python, open_search
from arpo_tools.redaction import redact
from arpo_verl.integration.rollout.call_arguments import fitted
from arpo_verl.integration.rollout.kept_instances import keeps_instance, run_for
from arpo_verl.integration.rollout.leaf_states import LeafData, VerlStates, instances_of
from arpo_verl.rollout.protocols import ToolAnswer, ToolCall
from arpo_verl.rollout.tool_text import valid_text
from arpo_verl.rollout.tool_threads import run_in_thread, tool_loop

logger = logging.getLogger(__name__)

MODEL_ERROR, INFRASTRUCTURE_ERROR = ToolStatus.MODEL_ERROR.value, ToolStatus.INFRASTRUCTURE_ERROR.value
LONGEST_MESSAGE = 10_000
"""Characters of an exception's text that are read."""
LONGEST_TRACE = 4000
"""Characters of a failed tool's traceback that the log gets."""
MOST_KINDS = 1000
"""Kinds of failures that are remembered as logged; a tool that finds more logs them again."""


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
        result: Any = await self._tool.run(str(text))
        if isinstance(result, str):
            result = ToolResult(result)
        if not isinstance(result, ToolResult):
            raise TypeError(f"tool {self.name!r} returned {type(result).__name__}; expected a ToolResult or a text")
        about = {"status": result.status.value, "is_cached": result.is_cached, "cost": result.cost}
        return ToolResponse(text=result.text), 0.0, about


def _options(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "type"}


class PythonTool(_ArpoTool):
    """`arpo_tools.open_python`; the keys under `config` are its arguments."""

    blocks_nothing = True

    def __init__(self, config: dict[str, Any], tool_schema: OpenAIFunctionToolSchema | None = None) -> None:
        tool = open_python(**_options(config))
        schema = tool_schema or _schema("python", tool.description, "code", "The program to run.")
        super().__init__(tool, schema)


class SearchTool(_ArpoTool):
    """`arpo_tools.open_search`; the keys under `config` are its arguments, `backend` first (default: `local`)."""

    blocks_nothing = True

    def __init__(self, config: dict[str, Any], tool_schema: OpenAIFunctionToolSchema | None = None) -> None:
        schema = tool_schema or _schema("search", "Search for passages.", "query", "The words to look for.")
        super().__init__(open_search(**_options(config)), schema)


class BrowserTool(_ArpoTool):
    """`arpo_tools.page_browser.PageBrowser`; the keys under `config` are the fields of its `BrowserOptions`."""

    blocks_nothing = True

    def __init__(self, config: dict[str, Any], tool_schema: OpenAIFunctionToolSchema | None = None) -> None:
        # Imported here because it needs aiohttp and the extra `web`, which a run without a browser does not.
        from arpo_tools.page_browser import PageBrowser

        schema = tool_schema or _schema(
            "browse", "Read a web page or a PDF.", "url", "The address, which may be followed by a question."
        )
        super().__init__(PageBrowser(**_options(config)), schema)


@dataclass(frozen=True)
class ToolSettings:
    """What verl's configuration and the dataset row say about tools."""

    prompt: list[dict[str, Any]]
    """The messages of the prompt."""
    tools_kwargs: dict[str, Any]
    """Per-sample `create_kwargs`, by tool name."""
    limit: int
    """Characters of a result that the model sees (`multi_turn.max_tool_response_length`)."""
    truncate_side: str
    """`left`, `right` or `middle` (`multi_turn.tool_response_truncate_side`)."""
    fork_seconds: float = 30.0
    """Time that the copy of a leaf's state may take."""


class VerlTools:
    """The scheduler's `Tools` over verl's, `BaseTool` and function tools, for one prompt."""

    def __init__(self, tools: dict[str, BaseTool | FunctionTool], settings: ToolSettings) -> None:
        self._tools = tools
        self._settings = settings
        self.states = VerlStates(settings.fork_seconds)
        """The scheduler's `LeafStates`; whoever makes this closes them."""

    def can_fork(self, name: str) -> bool:
        """Whether the tool's state is to be copied for a fork. A tool says that it can't by `can_fork = False`."""
        return bool(getattr(self._tools.get(name), "can_fork", True))

    async def execute(self, call: ToolCall, state: dict[str, Any], messages: Sequence[dict[str, Any]]) -> ToolAnswer:
        """Execute a call. Whatever the tool raises or returns becomes an answer of at most `limit` characters."""
        answer = await self._execute(call, state, messages)
        text = truncate(answer.text, self._settings.limit, self._settings.truncate_side)
        return replace(answer, text=valid_text(text))

    async def _execute(self, call: ToolCall, state: dict[str, Any], messages: Sequence[dict[str, Any]]) -> ToolAnswer:
        tool = self._tools.get(call.name)
        if tool is None:
            return ToolAnswer(unknown_tool(call.name, self._tools), MODEL_ERROR)
        try:
            arguments = fitted(tool, call.arguments)
        except ArgumentError as error:
            return ToolAnswer(f"Error: {error}", MODEL_ERROR)
        try:
            if isinstance(tool, FunctionTool):
                return await _call_function(tool, arguments)
            return await self._execute_instance(tool, arguments, state, messages)
        except ArgumentError as error:
            return ToolAnswer(_told(call, error), MODEL_ERROR)
        except Exception as error:
            _log_failure(call, error)
            return ToolAnswer(_told(call, error), INFRASTRUCTURE_ERROR)

    async def _execute_instance(
        self, tool: BaseTool, arguments: dict[str, Any], state: dict[str, Any], messages: Sequence[dict[str, Any]]
    ) -> ToolAnswer:
        kwargs = self._settings.tools_kwargs
        create_kwargs = kwargs.get(tool.name, {}).get("create_kwargs", {})
        shown = [*self._settings.prompt, *messages]
        agent_data = LeafData(state, tool, messages=shown, tools_kwargs=kwargs)
        self.states.begin(state)

        async def execute(instance_id: str) -> ToolAnswer:
            returned = tool.execute(instance_id, arguments, agent_data=agent_data)
            if inspect.isawaitable(returned):  # else it is an ordinary method, against verl's interface
                returned = await returned
            return answer_of(tool.name, returned)

        async def run() -> ToolAnswer:
            instance_id, _ = await tool.create(create_kwargs=create_kwargs)
            try:
                return await execute(instance_id)
            finally:
                await tool.release(instance_id)

        if keeps_instance(tool):
            return await self.states.kept.call(tool, instances_of(state), create_kwargs, execute)
        answer: ToolAnswer = await run_for(tool, run)
        return answer


async def _call_function(tool: FunctionTool, arguments: dict[str, Any]) -> ToolAnswer:
    """Call a function tool as verl's `FunctionTool.call` does, but where it can be left behind."""

    async def run(returned: Any = None) -> ToolAnswer:
        return answer_of(tool.name, await (tool.fn(**arguments) if returned is None else returned))

    def call() -> Any:
        returned = tool.fn(**arguments)
        return returned if inspect.isawaitable(returned) else answer_of(tool.name, returned)

    if tool.is_async:
        return await tool_loop(tool.name).run(run)
    returned = await run_in_thread(tool.name, call)
    if isinstance(returned, ToolAnswer):
        return returned
    # A function that is not marked as a coroutine function may return a coroutine all the same.
    return await tool_loop(tool.name).run(partial(run, returned))


class BadReturn(RuntimeError):
    """A tool returned what is no result."""


def answer_of(name: str, returned: Any) -> ToolAnswer:
    """Turn what a tool returned into an answer.

    Args:
        name: the tool's.
        returned: verl's `(ToolResponse, reward, metrics)`, or what `normalize_function_tool_return` takes for it.

    Raises:
        BadReturn: it can't be shown.
    """
    try:
        if isinstance(returned, tuple) and len(returned) == 3 and isinstance(returned[0], ToolResponse):
            response, reward, metrics = returned
        else:
            response, reward, metrics = normalize_function_tool_return(returned)
        text = str(response.text or "")
    except Exception as error:
        raise BadReturn(f"it returned {type(returned).__name__}, which can't be shown as text: {error}") from error
    if response.image or response.video:
        raise BadReturn("the result is an image or a video; ARPO's rollout shows text alone")
    return ToolAnswer(text, _status(metrics), _step_reward(name, reward), *_cache_and_cost(metrics))


def _status(metrics: Any) -> str:
    """Return the status that a tool names under `status`; `ok` where it names none of `ToolStatus`."""
    try:
        status: str = ToolStatus(metrics["status"]).value
    except (TypeError, LookupError, ValueError):
        status = ToolStatus.OK.value
    return status


def _cache_and_cost(metrics: Any) -> tuple[bool | None, float | None]:
    """Return what a tool names under `is_cached`, a truth, and `cost`, a finite number; None of anything else."""
    named = metrics if isinstance(metrics, dict) else {}
    is_cached, cost = named.get("is_cached"), named.get("cost")
    if isinstance(cost, bool) or not isinstance(cost, (int, float)) or not math.isfinite(cost):
        cost = None
    return is_cached if isinstance(is_cached, bool) else None, cost


def _step_reward(name: str, reward: Any) -> float | None:
    try:
        number = None if reward is None else float(reward)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if number is not None and not math.isfinite(number):
        logger.error("tool %r gave the step reward %.100r; expected a finite number: it is left out", name, reward)
        return None
    return number


_logged: set[tuple[str, str, str, int]] = set()
"""The kinds of failures that the log has: the tool, the class of the error, and where it was raised."""


def _log_failure(call: ToolCall, error: Exception) -> None:
    """Log what a tool raised with its traceback, once for each kind; all of them are in the metrics."""
    origin: BaseException = error
    while origin.__cause__ is not None:
        origin = origin.__cause__
    frames = traceback.extract_tb(origin.__traceback__)
    file, line = (frames[-1].filename, frames[-1].lineno or 0) if frames else ("", 0)
    kind = (call.name, type(origin).__qualname__, file, line)
    if kind in _logged:
        return
    if len(_logged) >= MOST_KINDS:
        _logged.clear()
    _logged.add(kind)
    trace = valid_text(redact("".join(traceback.format_exception(error))[-LONGEST_TRACE:]))
    logger.error(
        "tool %r failed on %s; further failures of this kind are only counted, in "
        "tools/<name>/status/infrastructure_error. A tool that can't use what a call says raises "
        "arpo_tools.ArgumentError.\n%s",
        call.name,
        redact(json.dumps(str(call.arguments)[:200])),
        trace,
    )


def _told(call: ToolCall, error: Exception) -> str:
    """Return in words for the model what a tool raised."""
    try:
        reason = redact(str(error)[:LONGEST_MESSAGE]) or type(error).__name__
    except Exception:
        reason = type(error).__name__
    return f"Error executing tool {call.name!r}: {reason}"


def tool_schema(tool: BaseTool | FunctionTool) -> dict[str, Any]:
    """Return a tool's schema as chat templates take it."""
    schema: dict[str, Any] = tool.tool_schema.model_dump(exclude_unset=True, exclude_none=True)
    return schema


def unknown_tool(name: str, tools: Iterable[str]) -> str:
    """Return in words for the model that there is no tool of a name."""
    return f"Unknown function '{name}'. Available tools: {', '.join(tools) or 'none'}"


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
