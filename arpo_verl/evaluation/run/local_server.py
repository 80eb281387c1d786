"""An inference server that a run starts itself, and that ends with it, however the run ends.

Between the two stands a supervisor (`python -m arpo_verl.evaluation.run.local_server COMMAND...`) that holds the end of
a pipe: when the run is gone, even by SIGKILL, the pipe closes, and the supervisor ends the server's process group.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

GRACE_SECONDS = 15.0
"""Time between SIGTERM and SIGKILL."""
LOG_LINES = 15
"""The number of last lines of the server's log that are shown when it has ended by itself."""


class ServerEnded(Exception):
    """The server that this run has started has ended, or did not start."""


@dataclass(frozen=True)
class LocalServer:
    """A running server, or one that has ended."""

    url: str
    log: Path
    supervisor: "subprocess.Popen[bytes]"

    def expect_running(self) -> None:
        """Check that the server is running.

        Raises:
            ServerEnded: it has ended.
        """
        if self.supervisor.poll() is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES:])
            raise ServerEnded(f"vLLM has ended by itself; the end of its log, {self.log}:\n{tail}")

    async def wait_until_healthy(self, seconds: float) -> None:
        """Wait until the server answers `/health`.

        Raises:
            ServerEnded: it has ended, or did not answer in time.
        """
        deadline = time.monotonic() + seconds
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while time.monotonic() < deadline:
                self.expect_running()
                with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError):
                    async with session.get(f"{self.url}/health") as response:
                        if response.status == 200:
                            return
                await asyncio.sleep(0.5)
        raise ServerEnded(
            f"vLLM did not answer within {seconds:g} s; expected it to be up: see {self.log}, or raise --start-seconds"
        )

    async def watch(self) -> None:
        """Check once a second that the server is running, for ever.

        Raises:
            ServerEnded: it has ended.
        """
        while True:
            self.expect_running()
            await asyncio.sleep(1.0)


@contextlib.contextmanager
def local_server(command: Sequence[str], log: Path, environment: Mapping[str, str], port: int) -> Iterator[LocalServer]:
    """Run a server that listens on a port of this machine, in a session of its own."""
    supervised = [sys.executable, "-m", "arpo_verl.evaluation.run.local_server", *command]
    with log.open("wb") as output:
        supervisor = subprocess.Popen(
            supervised, stdin=subprocess.PIPE, stdout=output, stderr=output, env=environment, start_new_session=True
        )
    try:
        yield LocalServer(f"http://127.0.0.1:{port}", log, supervisor)
    finally:
        assert supervisor.stdin is not None
        supervisor.stdin.close()
        supervisor.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def supervise(command: Sequence[str]) -> int:
    """Run a command until it ends or standard input does, then end all its process group; return its exit code."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    def end_with_input() -> None:
        while os.read(0, 1024):
            pass
        _signal_group(child.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_SECONDS)
        _signal_group(child.pid, signal.SIGKILL)

    threading.Thread(target=end_with_input, daemon=True).start()
    code = child.wait()
    _signal_group(child.pid, signal.SIGKILL)
    return code


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(supervise(sys.argv[1:]))
