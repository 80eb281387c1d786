"""From the options of a configuration to a Python tool, on this machine or on a server."""

from typing import Any

from arpo_tools.python_interpreter import PythonInterpreter
from arpo_tools.tool import Tool


def open_python(**options: Any) -> Tool:
    """Make a `RemotePython` where there is a `base_url`, else a `PythonInterpreter`; `options` are its fields.

    Raises:
        TypeError, ValueError, SandboxUnavailable: an option is unknown or can't work.
    """
    if "base_url" not in options:
        return PythonInterpreter(**options)
    from arpo_tools.remote_python import RemotePython  # it imports aiohttp, which a local interpreter doesn't need

    return RemotePython(**options)
