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

from arpo_verl.reward.math_text import decide, questions, tidy
from arpo_verl.reward.math_workers import ComparisonError, Helper, Worker

CHECK_TIMEOUT_SECONDS = 5.0
LONGEST_ANSWER = 500
"""Characters. The longest answer of mathematics in the paper's training data has 83."""
_MOST_CHECKS = 1000
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
    """Two workers died of the comparison, or it ended with an error that nothing caught."""


_BY_WEIGHT = (Verdict.EQUAL, Verdict.TIMEOUT, Verdict.FAILED, Verdict.DIFFERENT)


class _Turns:
    """A semaphore whose callers get in as they came; those of `threading` may be overtaken for ever."""

    def __init__(self, free: int) -> None:
        self._lock = threading.Lock()
        self._free = free
        self._waiting: deque[threading.Event] = deque()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        mine = threading.Event()
        with self._lock:
            self._waiting.append(mine)
            self._call_in()
        try:
            mine.wait()
            yield
        finally:
            with self._lock:
                if mine.is_set():
                    self._free += 1
                else:  # interrupted before its turn
                    self._waiting.remove(mine)
                self._call_in()

    def _call_in(self) -> None:
        while self._free and self._waiting:
            self._free -= 1
            self._waiting.popleft().set()


class MathChecker:
    """Compares mathematical answers; can be called from many threads at once, and after a fork.

    Processes are started when they are first needed and kept. They end with this process, however that ends.
    """

    _turns: _Turns
    _lock: threading.Lock
    _helper: Helper | None
    _idle: list[Worker]
    _busy: set[Worker]

    def __init__(self, workers: int = 4, memory_mib: int = 512) -> None:
        """
        Args:
            workers: at most so many; further callers wait, which doesn't count as time of their check.
            memory_mib: address space of each; Python and SymPy need 80. A comparison that runs out of it finds a
                difference.
        """
        self._workers = workers
        self._memory_bytes = memory_mib << 20
        self._set_up()
        _checkers.add(self)

    def check(self, prediction: str, truths: Sequence[str], timeout_seconds: float = CHECK_TIMEOUT_SECONDS) -> Verdict:
        """Compare a prediction with the accepted answers.

        Args:
            prediction: LaTeX, or a number or expression as Python prints it.
            truths: equal to one of them is enough.
            timeout_seconds: for all of them together.

        Raises:
            ImportError: math-verify's parser or SymPy can't be imported.
        """
        if len(prediction) > LONGEST_ANSWER:  # before anything reads it whole
            return Verdict.EQUAL if prediction in truths else Verdict.TOO_LONG
        answer, accepted = tidy(prediction), [tidy(truth) for truth in truths]
        decisions = [decide(answer, truth) for truth in accepted]
        if True in decisions:
            return Verdict.EQUAL
        undecided = [truth for truth, decision in zip(accepted, decisions, strict=True) if decision is None]
        if not undecided:
            return Verdict.DIFFERENT
        if max(map(len, [answer, *undecided])) > LONGEST_ANSWER:
            return Verdict.TOO_LONG
        asked: dict[str, list[str]] = {}
        for truth in undecided:
            plain, plain_truths = questions(answer, truth)
            asked.setdefault(plain, []).extend(plain_truths)
        with self._turns.turn():
            verdicts = {self._compare(plain, plain_truths, timeout_seconds) for plain, plain_truths in asked.items()}
        return next((verdict for verdict in _BY_WEIGHT if verdict in verdicts), Verdict.DIFFERENT)

    def close(self) -> None:
        """End all processes; a later check starts new ones."""
        with self._lock:
            helper, self._helper = self._helper, None
            self._idle = []
        if helper is not None:
            helper.stop()

    def start_afresh(self) -> None:
        """Forget all processes: a forked child must not talk to its parent's, nor wait for locks held at the fork."""
        for worker in [*self._idle, *self._busy]:
            worker.forget()
        if self._helper is not None:
            self._helper.forget()
        self._set_up()

    def _set_up(self) -> None:
        self._turns = _Turns(self._workers)
        self._lock = threading.Lock()
        self._helper = None
        self._idle = []
        self._busy = set()

    def _compare(self, answer: str, truths: list[str], timeout_seconds: float) -> Verdict:
        """Ask an idle worker, or a new one; if it dies, ask a new one, as it may have died of something else."""
        for is_last in (False, True):
            try:
                with self._worker(only_new=is_last) as worker:
                    is_equal = worker.is_equal(answer, truths, timeout_seconds)
                return Verdict.EQUAL if is_equal else Verdict.DIFFERENT
            except TimeoutError:
                return Verdict.TIMEOUT
            except ComparisonError:
                return Verdict.FAILED
            except OSError as error:
                if is_last:
                    logger.warning("a comparison failed twice, at last with %r: %r, %r", error, answer, truths)
        return Verdict.FAILED

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
                if is_sound and worker.helper is self._helper:
                    self._idle.append(worker)
                else:
                    self._end(worker)

    def _start_worker(self) -> Worker:
        if self._helper is None:
            self._helper = Helper(self._memory_bytes)
        try:
            return self._helper.start_worker()
        except OSError:
            self._drop(self._helper)
            raise

    def _end(self, worker: Worker) -> None:
        try:
            worker.end()
        except OSError:
            self._drop(worker.helper)

    def _drop(self, helper: Helper) -> None:
        if helper is self._helper:
            self._helper = None
        helper.stop(0)


_checkers: "weakref.WeakSet[MathChecker]" = weakref.WeakSet()


def _start_afresh_after_fork() -> None:
    for checker in _checkers:
        checker.start_afresh()


def _close_at_exit() -> None:
    for checker in _checkers:
        checker.close()


os.register_at_fork(after_in_child=_start_afresh_after_fork)
atexit.register(_close_at_exit)
