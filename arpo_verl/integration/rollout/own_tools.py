"""Tools of one's own in verl's tool list: a class with a `name` and `async def run(self, text)`, by its dotted path."""

import inspect
from collections.abc import Callable
from typing import Any

from verl.tools.schemas import OpenAIFunctionToolSchema

from arpo_tools import Tool
from arpo_verl.integration.rollout.tools import _ArpoTool, _options, _schema

PARAMETER = "text"
"""What the model calls the text of a call, where a tool has no attribute `parameter`."""


class OwnTool(_ArpoTool):
    """Somebody's own `arpo_tools.Tool` behind verl's interface; the keys under `config` are its arguments.

    Its attributes `description`, `parameter` (the name of a call's text) and `can_fork` are used where it has them.
    """

    def __init__(
        self, make: Callable[..., Tool], config: dict[str, Any], tool_schema: OpenAIFunctionToolSchema | None = None
    ) -> None:
        """Make the tool.

        Raises:
            ValueError: it has no name, or no coroutine `run`.
            TypeError: it does not take the keys of `config`.
        """
        label = f"{make.__module__}.{getattr(make, '__qualname__', make)}"
        tool = make(**_options(config))
        name = getattr(tool, "name", None)
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"tool {label}: name={name!r}; expected the text that the model calls it by: add it")
        if not inspect.iscoroutinefunction(tool.run):
            raise ValueError(
                f"tool {label}: `run` is no coroutine; expected `async def run(self, text: str) -> ToolResult`: change "
                f"it, with `asyncio.to_thread` inside where the work itself blocks"
            )
        described = getattr(tool, "description", None) or inspect.getdoc(make) or name
        schema = tool_schema or _schema(
            name, described, getattr(tool, "parameter", PARAMETER), "What it is to work on."
        )
        super().__init__(tool, schema)
        self.can_fork = bool(getattr(tool, "can_fork", True))
