"""Names tool calls that take too long, in the log. A thread, so that it also sees a call that blocks the event loop.

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
        """What it is, when it began, and the age at which it is reported next, of each call in flight."""
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def watch(self, what: str) -> Iterator[None]:
        """Watch what happens inside; `what` is the name it gets in the log."""
        number = next(self._numbers)
        with self._lock:
            self._calls[number] = (what, time.monotonic(), self._seconds)
        try:
            yield
        finally:
            with self._lock:
                del self._calls[number]

    def look(self) -> None:
        """Report what is stuck."""
        now = time.monotonic()
        with self._lock:
            in_flight = len(self._calls)
            stuck = [(number, *call) for number, call in self._calls.items() if now - call[1] >= call[2]]
            for number, what, start, _ in stuck:
                self._calls[number] = (what, start, 2 * (now - start))
        for _, what, start, _ in stuck:
            logger.warning("stuck for %.0f s: %s (%d calls in flight)", now - start, what, in_flight)

    def patrol(self) -> None:
        """Look again and again."""
        while True:
            time.sleep(min(1.0, self._seconds / 4))
            self.look()


@functools.cache
def watchdog_of_this_process(seconds: float) -> Watchdog:
    """Return the one watchdog of a process, on patrol."""
    watchdog = Watchdog(seconds)
    threading.Thread(target=watchdog.patrol, name="tool watchdog", daemon=True).start()
    return watchdog
