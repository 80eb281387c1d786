"""Lets verl's tool lists take classes other than `BaseTool`: any with a `name` and `async def run(self, text)`.

verl 0.9.1 calls every class of a tool list with `config` and `tool_schema` and expects a `BaseTool` back
(`tools/tool_registry.py`), and has no hook for another kind. So its look-up of classes is wrapped; a class of verl's
kind is returned as it is.
"""

import functools
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
