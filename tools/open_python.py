"""Opens a Python tool from the options of a configuration, on this machine or on a server."""

from typing import TYPE_CHECKING, Any, Union

from arpo_tools.python_interpreter import PythonInterpreter

if TYPE_CHECKING:
    from arpo_tools.remote_python import RemotePython


def open_python(**options: Any) -> Union[PythonInterpreter, "RemotePython"]:
    """Make a `RemotePython` where there is a `base_url`, else a `PythonInterpreter`; `options` are its fields.

    Raises:
        TypeError, ValueError, SandboxUnavailable: an option is unknown or can't work.
    """
    if "base_url" not in options:
        return PythonInterpreter(**options)
    from arpo_tools.remote_python import RemotePython  # it imports aiohttp, which a local interpreter doesn't need

    return RemotePython(**options)
