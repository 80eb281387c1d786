"""Processes that compare mathematics with math-verify and can be killed: the side of the process that owns them.

A fork server imports math-verify once and forks the workers, so that a worker's replacement takes milliseconds.
"""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_FORK_SERVER = Path(__file__).with_name("math_fork_server.py")
_MOST_MESSAGE_BYTES = 1 << 18
_START_SECONDS = 120.0
"""Time that the fork server has to import SymPy; it takes 1 to 2 s on an idle machine."""
_REPLY_SECONDS = 30.0
"""Time that the fork server has to fork or to kill."""
_STOP_SECONDS = 5.0


class ComparisonError(Exception):
    """A comparison ended with an error in the worker."""


class ForkServer:
    """A process that starts workers; any thread may use it."""

    def __init__(self, memory_bytes: int) -> None:
        """
        Args:
            memory_bytes: address space of each process.

        Raises:
            ImportError: math-verify can't be imported.
            OSError: the process can't be started, or doesn't report in time.
        """
        self._lock = threading.Lock()
        self._control, theirs = _socket_pair()
        try:
            with theirs:
                # subprocess uses vfork, which is safe in a process with threads, with CUDA or Ray. -I and hardly any
                # environment: nothing of the caller's is read. -S: reading every .pth file takes long.
                command = [sys.executable, "-I", "-S", "-B", str(_FORK_SERVER), str(os.getpid()), str(memory_bytes)]
                self._process = subprocess.Popen(
                    [*command, *filter(None, sys.path)],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    cwd="/",
                    # A Python that is linked to a library in an unusual place doesn't start without it.
                    env={name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
                    start_new_session=True,
                )
        except BaseException:
            self._control.close()
            raise
        try:
            hello = _receive(self._control, _START_SECONDS)
        except BaseException as error:
            self.stop(0)
            if isinstance(error, TimeoutError):  # which would be taken for a slow comparison
                raise OSError(f"the fork server didn't start within {_START_SECONDS:g} s") from error
            raise
        if "error" in hello:
            self.stop()
            raise ImportError(f"answers of mathematics need math-verify: {hello['error']}; pip install 'math-verify'")

    def start_worker(self) -> "Worker":
        """
        Raises:
            OSError: the fork server is dead, or can't start a process.
        """
        ours, theirs = _socket_pair()
        try:
            with theirs:
                reply = self._ask({"start": 1}, [theirs.fileno()])
            if "error" in reply:
                raise OSError(f"a worker can't be started: {reply['error']}")
        except BaseException:
            ours.close()
            raise
        return Worker(self, ours, reply["pid"])

    def end_worker(self, pid: int) -> None:
        """Kill a worker and have it reaped.

        Raises:
            OSError: the fork server is dead, and its workers with it.
        """
        self._ask({"end": pid})

    def stop(self, patience_seconds: float = _STOP_SECONDS) -> None:
        """End the fork server and its workers; kill it if it doesn't end; reap it."""
        self._control.close()
        try:
            self._process.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def forget(self) -> None:
        """Close this process's copy of the connection, in a forked child that doesn't own the fork_server."""
        self._control.close()
        self._process.returncode = 0  # not ours to reap

    def _ask(self, request: dict[str, int], descriptors: Sequence[int] = ()) -> dict[str, Any]:
        with self._lock:
            try:
                self._control.settimeout(_REPLY_SECONDS)
                socket.send_fds(self._control, [json.dumps(request).encode()], descriptors)
                return _receive(self._control, _REPLY_SECONDS)
            except BaseException as error:
                # A late reply would be taken for the next one.
                self._process.kill()
                if isinstance(error, TimeoutError):
                    raise OSError(f"the fork server didn't answer within {_REPLY_SECONDS:g} s") from error
                raise


class Worker:
    """A process that compares answers, one at a time, for one thread at a time."""

    def __init__(self, fork_server: ForkServer, connection: socket.socket, pid: int) -> None:
        self.fork_server = fork_server
        self.checks = 0
        self._connection = connection
        self._pid = pid

    def is_equal(self, prediction: str, truths: list[str], seconds: float) -> bool:
        """Compare a prediction with the accepted answers.

        Raises:
            ComparisonError: the comparison ended with an error.
            TimeoutError: it took longer than `seconds`.
            OSError: the worker has died.
        """
        self.checks += 1
        self._connection.settimeout(seconds)
        self._connection.send(json.dumps({"prediction": prediction, "truths": truths}).encode())
        reply = _receive(self._connection, seconds)
        if "error" in reply:
            raise ComparisonError(reply["error"])
        return bool(reply["is_equal"])

    def end(self) -> None:
        """Kill the process.

        Raises:
            OSError: the fork server is dead, and the worker with it.
        """
        self._connection.close()
        self.fork_server.end_worker(self._pid)

    def forget(self) -> None:
        """Close this process's copy of the connection, in a forked child that doesn't own the worker."""
        self._connection.close()


def _socket_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _receive(connection: socket.socket, seconds: float) -> dict[str, Any]:
    connection.settimeout(seconds)
    message = connection.recv(_MOST_MESSAGE_BYTES)
    if not message:
        raise ConnectionResetError("the process at the other end has died")
    reply: dict[str, Any] = json.loads(message)
    return reply
