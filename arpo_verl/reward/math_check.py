r"""Whether two mathematical answers are equal: `\frac{1}{2}` and `0.5`, `\sqrt{12}` and `2\sqrt{3}`.

What `math_text.py` can't decide goes to math-verify in worker processes that are killed when they take too long: its
own limits are signals, which fail in the threads in which verl computes rewards, and an answer such as 9^{9^{9}} has to
be stopped by force.
"""

import atexit
import enum
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from arpo_verl.reward.math_text import decide, tidy

CHECK_TIMEOUT_SECONDS = 5.0
LONGEST_ANSWER = 500
"""Characters. The longest answer of mathematics in the paper's training data has 83."""
_WORKER = Path(__file__).with_name("math_worker.py")
_MOST_MESSAGE_BYTES = 1 << 18
_START_SECONDS = 120.0
"""For a worker to import SymPy; about 1 s on a machine that has nothing else to do."""
_MOST_CHECKS = 2000
"""Of one worker: what SymPy's caches hold ends with it."""

logger = logging.getLogger(__name__)


class Verdict(str, enum.Enum):
    """What a check has found."""

    EQUAL = "equal"
    DIFFERENT = "different"
    TIMEOUT = "timeout"
    """The comparison was stopped after its time."""
    TOO_LONG = "too long"
    """An answer has more than `LONGEST_ANSWER` characters and wasn't compared."""
    FAILED = "failed"
    """The comparison ended with an error, of memory for example, or two workers died of it."""


class MathChecker:
    """Compares mathematical answers; can be called from many threads at once, and after a fork.

    Workers are started when they are first needed and kept. They end with this process, however that ends.
    """

    _slots: threading.BoundedSemaphore
    _lock: threading.Lock
    _idle: "list[_Worker]"
    _running: "set[_Worker]"

    def __init__(self, workers: int = 4, memory_mib: int = 1024) -> None:
        """
        Args:
            workers: at most so many processes; further callers wait, which doesn't count as time of their check.
            memory_mib: address space of each.
        """
        self._workers = workers
        self._memory_bytes = memory_mib << 20
        self._running = set()
        self.start_afresh()
        _checkers.add(self)

    def check(self, prediction: str, truths: Sequence[str], timeout_seconds: float = CHECK_TIMEOUT_SECONDS) -> Verdict:
        """Compare a prediction with the accepted answers.

        Args:
            prediction: LaTeX, or a number or expression as Python prints it.
            truths: equal to one of them is enough.
            timeout_seconds: for all of them together.

        Raises:
            ImportError: math-verify can't be imported.
        """
        answer, accepted = tidy(prediction), [tidy(truth) for truth in truths]
        decisions = [decide(answer, truth) for truth in accepted]
        if True in decisions:
            return Verdict.EQUAL
        undecided = [truth for truth, decision in zip(accepted, decisions, strict=True) if decision is None]
        if not undecided:
            return Verdict.DIFFERENT
        if max(map(len, [answer, *undecided])) > LONGEST_ANSWER:
            return Verdict.TOO_LONG
        request = {"prediction": answer, "truths": undecided, "seconds": timeout_seconds}
        with self._slots:
            return self._ask(request, timeout_seconds)

    def close(self) -> None:
        """End all workers; a later check starts new ones."""
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            self._end(worker)
        for worker in list(self._running):
            worker.interrupt()

    def start_afresh(self) -> None:
        """Forget all workers: a forked child must not talk to its parent's, nor wait for locks held at the fork."""
        for worker in self._running:
            worker.forget()
        self._slots = threading.BoundedSemaphore(self._workers)
        self._lock = threading.Lock()
        self._idle = []
        self._running = set()

    def _ask(self, request: dict[str, Any], timeout_seconds: float) -> Verdict:
        """Ask an idle worker, or a new one; if it dies, ask a new one, as it may have died of something else."""
        for is_last in (False, True):
            worker = None
            try:
                worker = self._take(only_new=is_last)
                reply = worker.ask(request, timeout_seconds)
            except TimeoutError:
                self._end(worker)
                return Verdict.TIMEOUT
            except OSError as error:
                self._end(worker)
                if is_last:
                    logger.warning("a comparison failed twice, the second time with %r: %s", error, request)
            except BaseException:
                # An interrupted worker would give its reply to the next question.
                self._end(worker)
                raise
            else:
                if "error" in reply:
                    self._end(worker)  # what ran out of memory may have left anything behind
                    return Verdict.FAILED
                self._give_back(worker)
                return Verdict.EQUAL if reply["is_equal"] else Verdict.DIFFERENT
        return Verdict.FAILED

    def _take(self, only_new: bool) -> "_Worker":
        if not only_new:
            with self._lock:
                if self._idle:
                    return self._idle.pop()
        worker = _Worker(self._memory_bytes)
        self._running.add(worker)
        return worker

    def _give_back(self, worker: "_Worker") -> None:
        if worker.checks >= _MOST_CHECKS:
            self._end(worker)
            return
        with self._lock:
            self._idle.append(worker)

    def _end(self, worker: "_Worker | None") -> None:
        if worker is not None:
            worker.kill()
            self._running.discard(worker)


class _Worker:
    """A process that runs `math_worker.py`."""

    def __init__(self, memory_bytes: int) -> None:
        """
        Raises:
            ImportError: math-verify can't be imported.
            OSError: the process can't be started, or doesn't report in time.
        """
        self.checks = 0
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                # subprocess uses vfork, which is safe in a process with threads, with CUDA or Ray. -I and hardly any
                # environment: nothing of the caller's is read. -S: reading every .pth file takes long.
                command = [sys.executable, "-I", "-S", "-B", str(_WORKER), str(os.getpid()), str(memory_bytes)]
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
            self._socket.close()
            raise
        try:
            hello = self._receive(_START_SECONDS)
        except TimeoutError as error:
            self.kill()
            raise OSError(f"a worker didn't start within {_START_SECONDS:g} s") from error
        except BaseException:
            self.kill()
            raise
        if "error" in hello:
            self.kill()
            raise ImportError(f"answers of mathematics need math-verify: {hello['error']}; pip install 'math-verify'")

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Return the worker's reply.

        Raises:
            TimeoutError: it took longer than `seconds`.
            OSError: it has died.
        """
        self.checks += 1
        self._socket.settimeout(seconds)
        self._socket.send(json.dumps(request).encode())
        return self._receive(seconds)

    def kill(self) -> None:
        """End the process and reap it."""
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def interrupt(self) -> None:
        """End the process of a worker that another thread waits for, which then cleans up."""
        self._process.kill()

    def forget(self) -> None:
        """Close this process's copy of the connection, in a forked child that doesn't own the worker."""
        self._socket.close()
        self._process.returncode = 0  # not ours to reap

    def _receive(self, seconds: float) -> dict[str, Any]:
        self._socket.settimeout(seconds)
        message = self._socket.recv(_MOST_MESSAGE_BYTES)
        if not message:
            raise ConnectionResetError("a worker has died")
        reply: dict[str, Any] = json.loads(message)
        return reply


_checkers: "weakref.WeakSet[MathChecker]" = weakref.WeakSet()


def _start_afresh_after_fork() -> None:
    for checker in _checkers:
        checker.start_afresh()


def _close_at_exit() -> None:
    for checker in _checkers:
        checker.close()


os.register_at_fork(after_in_child=_start_afresh_after_fork)
atexit.register(_close_at_exit)
