"""The fork server of `math_workers.py`: imports SymPy and its parser once, and forks a worker on request.

Started by path in a clean interpreter, so that nothing of the trainer's is loaded or inherited; imports nothing of
arpo_verl but `math_algebra`, as a package of its own. It speaks JSON over the sequenced-packet socket that is its
standard input: first `{}` or `{"error": ...}` for its start, then `{"pid": ...}` for each `{"start": 1}`, which brings
the worker's connection with it, and `{}` for each `{"end": pid}`. A worker answers `{"prediction", "truths"}` by
`{"is_equal": ...}` or `{"error": ...}`.

    python -I -S math_fork_server.py PARENT_PID MEMORY_BYTES FOLDER_OF_PACKAGES...
"""

import ctypes
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

MOST_MESSAGE_BYTES = 1 << 18
_POLL_SECONDS = 5.0
_PR_SET_PDEATHSIG = 1
_WARM_UP = (
    (r"\sqrt{12} + \pi", r"2\sqrt{3}"),
    (r"\frac{1}{2}x", "x/2 + 0.5"),
    ("(x+1)^2", "x^2+2x+1"),
    (r"\{1, 2\}", "2, -1"),
    (r"(-\infty, 2] \cup (3,4)", r"x \le 2"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\sin(x) = 30^\circ"),
)
"""Pairs that fill the caches of SymPy and of the parser, which learns its grammar by use, before workers are forked."""

Comparison = Callable[[str, list[str]], bool]


def load_comparison() -> Comparison:
    """Import the algebra and return the comparison of a prediction with the accepted answers."""
    from math_algebra.comparing import is_equal  # type: ignore[import-not-found, unused-ignore]

    return lambda prediction, truths: any(is_equal(prediction, truth) for truth in truths)


def compare(connection: socket.socket, is_equal: Comparison) -> None:
    """Answer a worker's questions until the connection is closed."""
    while message := connection.recv(MOST_MESSAGE_BYTES):
        request = json.loads(message)
        try:
            answer: dict[str, Any] = {"is_equal": is_equal(request["prediction"], request["truths"])}
        except Exception as error:  # whatever hostile mathematics can bring about in a parser and an algebra system
            answer = {"error": type(error).__name__}
        connection.send(json.dumps(answer).encode())


def start_worker(control: socket.socket, connection: socket.socket, is_equal: Comparison) -> int:
    """Fork a worker, which dies with this process, and return its id."""
    fork_server = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        control.close()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() == fork_server:
            compare(connection, is_equal)
            status = 0
    finally:
        os._exit(status)


def end_worker(pid: int) -> None:
    """Kill a worker and reap it."""
    os.kill(pid, signal.SIGKILL)  # or its corpse: nobody else has the number until it is reaped
    os.waitpid(pid, 0)


def supervise(control: socket.socket, parent: int, is_equal: Comparison) -> None:
    """Start and end workers until the other end is closed or the parent is gone; then end them all."""
    workers: set[int] = set()
    while True:
        # The end of the connection doesn't show the parent's death while a forked child of it holds a copy.
        readable, _, _ = select.select([control], [], [], _POLL_SECONDS)
        if os.getppid() != parent:
            break
        if not readable:
            continue
        message, descriptors, _, _ = socket.recv_fds(control, MOST_MESSAGE_BYTES, 1)
        if not message:
            break
        request = json.loads(message)
        reply: dict[str, Any] = {}
        if descriptors:
            with socket.socket(fileno=descriptors[0]) as connection:
                try:
                    reply["pid"] = start_worker(control, connection, is_equal)
                    workers.add(reply["pid"])
                except OSError as error:  # no more processes
                    reply["error"] = str(error)
        elif request["end"] in workers:
            workers.remove(request["end"])
            end_worker(request["end"])
        control.send(json.dumps(reply).encode())
    for pid in workers:
        end_worker(pid)


def main() -> None:
    parent, memory_bytes = int(sys.argv[1]), int(sys.argv[2])
    sys.path[:] = [*sys.argv[3:], os.path.dirname(os.path.abspath(__file__))]
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    control = socket.socket(fileno=0)
    try:
        is_equal = load_comparison()
    except ImportError as error:
        control.send(json.dumps({"error": str(error)}).encode())
        return
    # Errors of a start are worth reading; what comes later is the parser's log.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for one, other in _WARM_UP:
        is_equal(one, [other])
    gc.freeze()  # the workers share this memory as long as nobody writes to it
    control.send(b"{}")
    supervise(control, parent, is_equal)


if __name__ == "__main__":
    main()
