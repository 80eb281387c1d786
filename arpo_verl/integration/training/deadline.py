"""A time limit for calls that have none, such as those to a process that hangs but lives."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

AGAIN_SECONDS = 5.0
"""After which an interruption that was swallowed comes again."""


@contextlib.contextmanager
def deadline(seconds: float, what: str) -> Iterator[None]:
    """Interrupt the block, which has to be in the main thread, wherever it waits; by the timer that raises SIGALRM.

    Does not interrupt C code that never looks for signals.

    Raises:
        TimeoutError: the block has not ended in time; `what` names it in the message.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"{what} has not ended within {seconds:g} s")

    stock_handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_SECONDS)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, stock_handler)
