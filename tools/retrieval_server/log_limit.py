"""A limit on log lines of one kind, for a server whose clients could make it log without end."""

import logging
import re
import time
from dataclasses import dataclass

_NUMBER = re.compile(r"0x[0-9a-fA-F]+|\d+")


@dataclass
class _Count:
    began: float
    passed: int = 0
    left_out: int = 0


class LogLimit(logging.Filter):
    """A filter that passes `most` lines of one kind a period; the first line of the next says how many were left out.

    A kind is a logger, a level and what the message says before its arguments are filled in, numbers apart. Attach it
    to handlers: a logger's own filter does not see what comes from the loggers below it.
    """

    def __init__(self, most: int = 20, seconds: float = 60.0) -> None:
        super().__init__()
        self._most = most
        self._seconds = seconds
        self._counts: dict[tuple[str, int, str], _Count] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        self._counts = {kind: count for kind, count in self._counts.items() if self._is_current(count, now)}
        words = str(record.msg).partition("\n")[0][:100]
        kind = (record.name, record.levelno, _NUMBER.sub("#", words))
        count = self._counts.setdefault(kind, _Count(now))
        if now - count.began >= self._seconds:
            record.msg = f"{record.getMessage()} ({count.left_out} lines like this one were left out)"
            record.args = None
            self._counts[kind] = _Count(now, passed=1)
            return True
        if count.passed < self._most:
            count.passed += 1
            return True
        count.left_out += 1
        return False

    def _is_current(self, count: _Count, now: float) -> bool:
        """Whether a count is needed: one that has left lines out waits for its next line."""
        return count.left_out > 0 or now - count.began < self._seconds
