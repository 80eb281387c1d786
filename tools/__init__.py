"""Tools for agents, usable with or without verl: a Python interpreter, search engines and a page browser.

Worlds to act in are in `arpo_tools.environment`, tools of MCP servers in `arpo_tools.mcp_tools`.

Every tool is a `Tool`: a name and one coroutine from the model's text to a `ToolResult`. A tool never raises into the
rollout; what went wrong is in the result's status.
"""

from arpo_tools.local_search import LocalSearch
from arpo_tools.open_python import open_python
from arpo_tools.python_interpreter import PythonInterpreter
from arpo_tools.search import open_search
from arpo_tools.tool import ArgumentError, Tool, ToolResult, ToolStatus

__all__ = [
    "ArgumentError",
    "LocalSearch",
    "PythonInterpreter",
    "Tool",
    "ToolResult",
    "ToolStatus",
    "open_python",
    "open_search",
]
