"""asyncio tasks that end together: the first failure ends all of them.

What `asyncio.TaskGroup` does from Python 3.11 on, but that a task may be added while others are waited for, that a
failure is raised as it is, and that a task that answers its cancellation by going on is cancelled again.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class Tasks:
    """Start tasks, `join` them, and `close` whatever happened: then none is left."""

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

    async def close(self) -> None:
        """Cancel what still runs and wait for its end."""
        self._is_closed = True
        while self._running:
            for task in self._running:
                task.cancel()
            _, self._running = await asyncio.wait(self._running)
