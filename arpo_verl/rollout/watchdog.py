"""A thread that logs tool calls that take too long; as a thread it also sees a call that blocks the event loop.

It only reports; `arpo.max_call_seconds` and each tool's own limits end calls.
"""

import contextlib
import functools
import itertools
import logging
import threading
import time
from collections.abc import Iterator

logger = logging.getLogger(__name__)


class Watchdog:
    """Logs each watched call that is older than `seconds`, and again every time that its age has doubled."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._numbers = itertools.count()
        self._calls: dict[int, tuple[str, float, float]] = {}
        """For each call in flight: its name, when it began, and the age at which it is reported next."""
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def watch(self, what: str) -> Iterator[None]:
        """Watch the call inside the context; `what` is its name in the log."""
        number = next(self._numbers)
        with self._lock:
            self._calls[number] = (what, time.monotonic(), self._seconds)
        try:
            yield
        finally:
            with self._lock:
                del self._calls[number]

    def report_stuck_calls(self) -> None:
        """Log the calls that are due for a report."""
        now = time.monotonic()
        with self._lock:
            in_flight = len(self._calls)
            stuck = [(number, *call) for number, call in self._calls.items() if now - call[1] >= call[2]]
            for number, what, start, _ in stuck:
                self._calls[number] = (what, start, 2 * (now - start))
        for _, what, start, _ in stuck:
            logger.warning("stuck for %.0f s: %s (%d calls in flight)", now - start, what, in_flight)

    def run(self) -> None:
        """Report stuck calls, for ever."""
        while True:
            time.sleep(min(1.0, self._seconds / 4))
            self.report_stuck_calls()


@functools.cache
def watchdog_of_this_process(seconds: float) -> Watchdog:
    """Return the one watchdog of this process, whose thread is running."""
    watchdog = Watchdog(seconds)
    threading.Thread(target=watchdog.run, name="tool watchdog", daemon=True).start()
    return watchdog
