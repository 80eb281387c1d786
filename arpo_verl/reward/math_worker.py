"""The worker of `math_check.py`: compares answers with math-verify, one request at a time, until it is killed.

Started by path in a clean interpreter, so that nothing of the trainer's is loaded or inherited; imports nothing of
arpo_verl. It speaks JSON over the sequenced-packet socket that is its standard input: first `{}` or `{"error": ...}`
for its start, then `{"is_equal": ...}` or `{"error": ...}` for each `{"prediction", "truths", "seconds"}`.

    python -I -S math_worker.py PARENT_PID MEMORY_BYTES FOLDER_OF_PACKAGES...
"""

import json
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

GRACE_SECONDS = 2.0
"""How much later than its owner's the worker's own alarm ends it; it matters only when the owner has died."""
MOST_MESSAGE_BYTES = 1 << 18
_POLL_SECONDS = 5.0


def load_comparison() -> Callable[[str, list[str]], bool]:
    """Import math-verify and return the comparison of a prediction with the accepted answers.

    Its own time limits are off: they are signals, which work only in a main thread, and don't interrupt a long
    computation in C.
    """
    from math_verify import (  # type: ignore[import-untyped]
        ExprExtractionConfig,
        LatexExtractionConfig,
        parse,
        verify,
    )

    # By default it would take any number out of what it can't read: 1 out of `(lambda: 1/0)()`.
    targets = [LatexExtractionConfig(), ExprExtractionConfig(try_extract_without_anchor=False)]

    def read(text: str) -> Any:
        return parse(f"${text}$", targets, parsing_timeout=None)

    def is_equal(prediction: str, truths: list[str]) -> bool:
        answer = read(prediction)
        return any(
            # Relations and sets: x <= 2 is (-oo, 2], whichever of the two is the truth.
            verify(read(truth), answer, allow_set_relation_comp=True, timeout_seconds=None)
            for truth in truths
        )

    return is_equal


def serve(connection: socket.socket, parent: int, is_equal: Callable[[str, list[str]], bool]) -> None:
    """Answer requests until the other end is closed or the parent is gone."""
    while True:
        # The end of the connection doesn't show the parent's death while a forked child of it holds a copy.
        readable, _, _ = select.select([connection], [], [], _POLL_SECONDS)
        if os.getppid() != parent:
            return
        if not readable:
            continue
        message = connection.recv(MOST_MESSAGE_BYTES)
        if not message:
            return
        request = json.loads(message)
        # By default, this signal ends the process, in the middle of C code as well.
        signal.setitimer(signal.ITIMER_REAL, request["seconds"] + GRACE_SECONDS)
        try:
            answer: dict[str, Any] = {"is_equal": is_equal(request["prediction"], request["truths"])}
        except Exception as error:  # whatever hostile mathematics can bring about in a parser and an algebra system
            answer = {"error": type(error).__name__}
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.send(json.dumps(answer).encode())


def main() -> None:
    parent, memory_bytes = int(sys.argv[1]), int(sys.argv[2])
    sys.path[:] = sys.argv[3:]
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    connection = socket.socket(fileno=0)
    try:
        is_equal = load_comparison()
    except ImportError as error:
        connection.send(json.dumps({"error": str(error)}).encode())
        return
    # Errors of a start are worth reading; what comes later is math-verify's log.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    is_equal("x", ["\\frac{1}{2}"])  # loads what is loaded late
    connection.send(b"{}")
    serve(connection, parent, is_equal)


if __name__ == "__main__":
    main()
