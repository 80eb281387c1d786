"""The retry policy of calls to a service, and the wait that a service asks for."""

import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime


@dataclass(frozen=True)
class RetryPolicy:
    """The time and the attempts that a call to a service may take."""

    attempt_seconds: float = 10.0
    total_seconds: float = 30.0
    """Time for all attempts, the waits between them and the wait for the rate limit included."""
    attempts: int = 4

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{name}={value}; expected a positive number: raise it")


def retry_after(header: str | None) -> float | None:
    """Return the seconds that a `Retry-After` header asks for, a number or a date; None if it can't be read."""
    if header is None:
        return None
    if header.strip().isascii() and header.strip().isdigit():
        return float(header.strip()[:12])
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None
