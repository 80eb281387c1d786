"""One object for each event loop, closed with its loop: sessions and pipes can't be used from another loop."""

import asyncio
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class LoopLocal(Generic[T]):
    """Makes the object on first use in a loop; `close` runs when the loop shuts down.

    The moment is `loop.shutdown_asyncgens`, which `asyncio.run` calls. A loop that is closed without it leaves the
    object to the garbage collector.
    """

    def __init__(self, make: Callable[[], T], close: Callable[[T], Awaitable[None]] | None = None) -> None:
        self._make = make
        self._close = close
        self._lifetimes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[T, AsyncIterator[T]]] = (
            weakref.WeakKeyDictionary()
        )

    async def get(self) -> T:
        """Return the running loop's object."""
        loop = asyncio.get_running_loop()
        if loop not in self._lifetimes:
            # A generator that is never finished: the loop finishes it at its own end. Up to its first `yield` it does
            # not give way to other tasks, so no second object is made.
            lifetime = self._lifetime(loop)
            self._lifetimes[loop] = (await lifetime.__anext__(), lifetime)
        return self._lifetimes[loop][0]

    async def _lifetime(self, loop: asyncio.AbstractEventLoop) -> AsyncIterator[T]:
        value = self._make()
        try:
            yield value
        finally:
            self._lifetimes.pop(loop, None)
            if self._close is not None:
                await self._close(value)
