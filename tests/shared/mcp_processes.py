"""Starts the MCP server of `mcp_world.py`, over HTTP or as a command."""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAM = Path(__file__).parent / "mcp_world.py"
COMMAND = {"command": sys.executable, "args": [str(PROGRAM), "stdio"]}


@contextlib.contextmanager
def http_server(mood: str = "") -> Iterator[tuple[dict, subprocess.Popen]]:
    """Serve over HTTP; yield the keys of the address and the process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, PROGRAM, "http", str(port), mood])
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield {"url": f"http://127.0.0.1:{port}/mcp"}, process
    finally:
        process.kill()
        process.wait()
