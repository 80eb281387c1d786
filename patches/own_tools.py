"""Lets verl's tool lists take classes other than `BaseTool`: any with a `name` and `async def run(self, text)`, and
entries that stand for several tools.

verl 0.9.1 calls every class of a tool list with `config` and `tool_schema` and expects one `BaseTool` back
(`tools/tool_registry.py`), and has no hook for another kind. So its look-up of classes is wrapped; a class of verl's
kind is returned as it is. What has an attribute `tools_of_entry` is replaced by these tools.
"""

import functools
from collections import Counter
from collections.abc import Callable
from types import ModuleType
from typing import Any


def accept_own_tools(tool_registry: ModuleType, wrapper: Callable[[], type]) -> None:
    """Wrap the look-up of classes; may be called again.

    Args:
        tool_registry: verl's module.
        wrapper: returns the class that makes a `BaseTool` of such a class. Called late: it imports that very module.
    """
    find = tool_registry.get_tool_class
    if hasattr(find, "__wrapped__"):
        return

    @functools.wraps(find)
    def get_tool_class(cls_name: str) -> Callable[..., Any]:
        found: Callable[..., Any] = find(cls_name)
        if not hasattr(found, "run") or hasattr(found, "execute"):
            return found
        return functools.partial(wrapper(), found)

    tool_registry.get_tool_class = get_tool_class  # type: ignore[attr-defined]


def accept_several_tools(tool_registry: ModuleType) -> None:
    """Wrap the making of a list's tools; may be called again."""
    make = tool_registry.initialize_tools_from_config
    if hasattr(make, "__wrapped__"):
        return

    @functools.wraps(make)
    def initialize_tools_from_config(tools_config_file: str) -> list[Any]:
        made: list[Any] = make(tools_config_file)
        several = [getattr(one, "tools_of_entry", None) for one in made]
        if not any(several):
            return made
        tools = [tool for one, its_tools in zip(made, several, strict=True) for tool in its_tools or [one]]
        names = Counter(tool.name for tool in tools)
        twice = sorted(name for name, count in names.items() if count > 1)
        if twice:  # verl lets the last of equal names win
            raise ValueError(
                f"{tools_config_file}: several tools are called {twice}; expected one of each: set `prefix`"
            )
        return tools

    tool_registry.initialize_tools_from_config = initialize_tools_from_config  # type: ignore[attr-defined]
