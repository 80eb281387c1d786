"""verl's tool lists take classes that are no `BaseTool`: anything with a `name` and `async def run(self, text)`.

verl 0.9.1 calls every class of a tool list with `config` and `tool_schema` and expects a `BaseTool` back
(`tools/tool_registry.py`), and has no hook for another kind. So its look-up of classes is wrapped; a class of verl's
kind is returned as it is.
"""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any


def accept_own_tools(tool_registry: ModuleType) -> None:
    """Wrap the look-up of classes; may be called again."""
    find = tool_registry.get_tool_class
    if hasattr(find, "__wrapped__"):
        return

    @functools.wraps(find)
    def get_tool_class(cls_name: str) -> Callable[..., Any]:
        found: Callable[..., Any] = find(cls_name)
        if not hasattr(found, "run") or hasattr(found, "execute"):
            return found
        # Imported here because it imports this very module of verl's.
        from arpo_verl.integration.own_tools import OwnTool

        return functools.partial(OwnTool, found)

    tool_registry.get_tool_class = get_tool_class
