r"""Whether two mathematical answers are equal: `\frac{1}{2}` and `0.5`, `\sqrt{12}` and `2\sqrt{3}`.

What `math_text.py` can't decide is read by math-verify's parser and compared by SymPy (`math_algebra`) in worker
processes that are killed when they take too long: math-verify's own limits are signals, which fail in the threads in
which verl computes rewards, and an answer such as 9^{9^{9}} has to be stopped by force.
"""

import atexit
import contextlib
import enum
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence

from arpo_verl.reward.math_text import comparison_pairs, decide, tidy
from arpo_verl.reward.math_workers import ComparisonError, ForkServer, Worker

CHECK_TIMEOUT_SECONDS = 5.0
LONGEST_ANSWER = 500
"""Characters. The longest answer of mathematics in the paper's training data has 83."""
_MOST_CHECKS = 1000
"""The number of checks after which a worker is ended, and SymPy's caches with it."""

logger = logging.getLogger(__name__)


class MathCheckResult(str, enum.Enum):
    """The result of a check."""

    EQUAL = "equal"
    DIFFERENT = "different"
    TIMEOUT = "timeout"
    """The comparison was stopped after its time."""
    TOO_LONG = "too long"
    """An answer has more than `LONGEST_ANSWER` characters and wasn't compared."""
    FAILED = "failed"
    """Two workers died of the comparison, or it ended with an error that nothing caught."""


_BY_PRIORITY = (MathCheckResult.EQUAL, MathCheckResult.TIMEOUT, MathCheckResult.FAILED, MathCheckResult.DIFFERENT)


class _FairSemaphore:
    """A first-in, first-out semaphore; callers of one of `threading` may be overtaken for ever."""

    def __init__(self, free: int) -> None:
        self._lock = threading.Lock()
        self._free = free
        self._waiting: deque[threading.Event] = deque()

    @contextlib.contextmanager
    def slot(self) -> Iterator[None]:
        mine = threading.Event()
        with self._lock:
            self._waiting.append(mine)
            self._admit()
        try:
            mine.wait()
            yield
        finally:
            with self._lock:
                if mine.is_set():
                    self._free += 1
                else:  # interrupted before its slot
                    self._waiting.remove(mine)
                self._admit()

    def _admit(self) -> None:
        while self._free and self._waiting:
            self._free -= 1
            self._waiting.popleft().set()


class MathChecker:
    """Compares mathematical answers; can be called from many threads at once, and after a fork.

    Processes are started when they are first needed and kept. They end with this process, however that ends.
    """

    _slots: _FairSemaphore
    _lock: threading.Lock
    _fork_server: ForkServer | None
    _idle: list[Worker]
    _busy: set[Worker]

    def __init__(self, workers: int = 4, memory_mib: int = 512) -> None:
        """
        Args:
            workers: the number of worker processes; further callers wait, which doesn't count as time of their check.
            memory_mib: address space of each worker; Python and SymPy need 80. A comparison that runs out of it finds a
                difference.
        """
        self._workers = workers
        self._memory_bytes = memory_mib << 20
        self._set_up()
        _checkers.add(self)

    def check(
        self, prediction: str, truths: Sequence[str], timeout_seconds: float = CHECK_TIMEOUT_SECONDS
    ) -> MathCheckResult:
        """Compare a prediction with the accepted answers.

        Args:
            prediction: LaTeX, or a number or expression as Python prints it.
            truths: equal to one of them is enough.
            timeout_seconds: for all of them together.

        Raises:
            ImportError: math-verify's parser or SymPy can't be imported.
        """
        if len(prediction) > LONGEST_ANSWER:  # before anything reads it whole
            return MathCheckResult.EQUAL if prediction in truths else MathCheckResult.TOO_LONG
        answer, accepted = tidy(prediction), [tidy(truth) for truth in truths]
        decisions = [decide(answer, truth) for truth in accepted]
        if True in decisions:
            return MathCheckResult.EQUAL
        undecided = [truth for truth, decision in zip(accepted, decisions, strict=True) if decision is None]
        if not undecided:
            return MathCheckResult.DIFFERENT
        if max(map(len, [answer, *undecided])) > LONGEST_ANSWER:
            return MathCheckResult.TOO_LONG
        asked: dict[str, list[str]] = {}
        for truth in undecided:
            for plain, plain_truth in comparison_pairs(answer, truth):
                asked.setdefault(plain, []).append(plain_truth)
        with self._slots.slot():
            results = {self._compare(plain, plain_truths, timeout_seconds) for plain, plain_truths in asked.items()}
        return next((result for result in _BY_PRIORITY if result in results), MathCheckResult.DIFFERENT)

    def close(self) -> None:
        """End all processes; a later check starts new ones."""
        with self._lock:
            fork_server, self._fork_server = self._fork_server, None
            self._idle = []
        if fork_server is not None:
            fork_server.stop()

    def reset_after_fork(self) -> None:
        """Drop all processes: a forked child must not talk to its parent's, nor wait for locks held at the fork."""
        for worker in [*self._idle, *self._busy]:
            worker.forget()
        if self._fork_server is not None:
            self._fork_server.forget()
        self._set_up()

    def _set_up(self) -> None:
        self._slots = _FairSemaphore(self._workers)
        self._lock = threading.Lock()
        self._fork_server = None
        self._idle = []
        self._busy = set()

    def _compare(self, answer: str, truths: list[str], timeout_seconds: float) -> MathCheckResult:
        """Ask an idle worker, or a new one; if it dies, ask a new one, as it may have died of something else."""
        for is_last in (False, True):
            try:
                with self._worker(only_new=is_last) as worker:
                    is_equal = worker.is_equal(answer, truths, timeout_seconds)
                return MathCheckResult.EQUAL if is_equal else MathCheckResult.DIFFERENT
            except TimeoutError:
                return MathCheckResult.TIMEOUT
            except ComparisonError:
                return MathCheckResult.FAILED
            except OSError as error:
                if is_last:
                    logger.warning("a comparison failed twice, at last with %r: %r, %r", error, answer, truths)
        return MathCheckResult.FAILED

    @contextlib.contextmanager
    def _worker(self, only_new: bool) -> Iterator[Worker]:
        """Lend a worker, and end it if anything goes wrong: it would give its answer to the next question."""
        with self._lock:
            worker = self._idle.pop() if self._idle and not only_new else self._start_worker()
            self._busy.add(worker)
        is_sound = False
        try:
            yield worker
            is_sound = worker.checks < _MOST_CHECKS
        finally:
            with self._lock:
                self._busy.discard(worker)
                if is_sound and worker.fork_server is self._fork_server:
                    self._idle.append(worker)
                else:
                    self._end(worker)

    def _start_worker(self) -> Worker:
        if self._fork_server is None:
            self._fork_server = ForkServer(self._memory_bytes)
        try:
            return self._fork_server.start_worker()
        except OSError:
            self._drop(self._fork_server)
            raise

    def _end(self, worker: Worker) -> None:
        try:
            worker.end()
        except OSError:
            self._drop(worker.fork_server)

    def _drop(self, fork_server: ForkServer) -> None:
        if fork_server is self._fork_server:
            self._fork_server = None
        fork_server.stop(0)


_checkers: "weakref.WeakSet[MathChecker]" = weakref.WeakSet()


def _reset_checkers_after_fork() -> None:
    for checker in _checkers:
        checker.reset_after_fork()


def _close_at_exit() -> None:
    for checker in _checkers:
        checker.close()


os.register_at_fork(after_in_child=_reset_checkers_after_fork)
atexit.register(_close_at_exit)
