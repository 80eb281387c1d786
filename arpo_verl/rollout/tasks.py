"""asyncio tasks that end together: the first failure ends all of them.

What `asyncio.TaskGroup` does from Python 3.11 on, but that a task may be added while others are waited for, that a
failure is raised as it is, that a task that answers its cancellation by going on is cancelled again, and that none is
waited for without a limit.
"""

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

CLOSING_SECONDS = 5.0
"""Time that cancelled tasks may take to end before they are left behind; more than tasks within tasks may take."""
ROUND_SECONDS = 0.5
"""A task that still runs so long after its cancellation is cancelled again."""
LONGEST_PAUSE_SECONDS = 60.0
"""A task that was left behind is cancelled again after pauses that grow to this."""

_left_behind: set["asyncio.Task[Any]"] = set()
"""asyncio keeps no reference to a running task."""


class Tasks:
    """Start tasks, `join` them, and `close` whatever happened: then none is left that ends when it is cancelled."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self._ended: asyncio.Queue[asyncio.Task[Any]] = asyncio.Queue()
        self._is_closed = False

    def start(self, coroutine: Coroutine[Any, Any, Result]) -> "asyncio.Task[Result] | None":
        """Start a task; None when the tasks are closed, because a task that is being cancelled starts no other."""
        if self._is_closed:
            coroutine.close()
            return None
        task = asyncio.create_task(coroutine)
        self._running.add(task)
        task.add_done_callback(self._ended.put_nowait)
        return task

    async def join(self) -> None:
        """Wait until all tasks have ended, those included that are started meanwhile.

        Raises:
            Exception: what the first failing task raised.
        """
        while self._running:
            task = await self._ended.get()
            self._running.discard(task)
            if task.cancelled():
                # Passed on as it is, it would look as if somebody had cancelled the one who waits.
                raise RuntimeError("a tool or the engine raised CancelledError; expected an answer or an error")
            task.result()

    async def close(self, seconds: float = CLOSING_SECONDS) -> None:
        """Cancel what still runs and wait for its end, as `end_tasks` does."""
        self._is_closed = True
        running, self._running = self._running, set()
        await end_tasks(running, seconds)


async def end_tasks(tasks: Iterable["asyncio.Task[Any]"], seconds: float) -> None:
    """Cancel tasks and wait for their end, at most so long; what runs then is left behind, cancelled again and again.

    Raises:
        asyncio.CancelledError: the one who waits was cancelled meanwhile. It is raised at the end of the wait, because
            whoever left at once would leave the tasks running.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    cancellation: asyncio.CancelledError | None = None
    tasks = set(tasks)
    running = {task for task in tasks if not task.done()}
    while running and loop.time() < end:
        for task in running:
            task.cancel()
        round_end = min(end, loop.time() + ROUND_SECONDS)
        while running and (left := round_end - loop.time()) > 0:
            try:
                _, running = await asyncio.wait(running, timeout=left)
            except asyncio.CancelledError as error:
                cancellation = error
                running = {task for task in running if not task.done()}
    for task in tasks - running:
        _retrieve(task)
    for task in running:
        _leave_behind(task, seconds)
    if cancellation is not None:
        raise cancellation


def _leave_behind(task: "asyncio.Task[Any]", seconds: float) -> None:
    logger.warning("a task did not end within %g s of its cancellation and is left behind: %r", seconds, task)
    _left_behind.add(task)
    task.add_done_callback(_forget)
    _cancel_again(task, ROUND_SECONDS)


def _cancel_again(task: "asyncio.Task[Any]", pause: float) -> None:
    """Go on until the task ends: it is not to go on with its work, should it come back."""
    if not task.done():
        task.cancel()
        task.get_loop().call_later(pause, _cancel_again, task, min(2 * pause, LONGEST_PAUSE_SECONDS))


def _forget(task: "asyncio.Task[Any]") -> None:
    _left_behind.discard(task)
    _retrieve(task)


def _retrieve(task: "asyncio.Task[Any]") -> None:
    """Ask for an error that nobody waits for any more, so that asyncio does not report it as never retrieved."""
    if not task.cancelled():
        task.exception()
