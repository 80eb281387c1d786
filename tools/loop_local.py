"""One object for each event loop, closed with its loop: sessions and pipes can't be used from another loop."""

import asyncio
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class LoopLocal(Generic[T]):
    """Makes the object on first use in a loop; `close` runs when the loop shuts down or this is dropped.

    The moment of a shut-down is `loop.shutdown_asyncgens`, which `asyncio.run` calls. A loop that is closed without it
    leaves the object to the garbage collector. `make` and `close` must not hold what holds this: the object of a cycle
    is collected before it can be closed.
    """

    def __init__(self, make: Callable[[], T], close: Callable[[T], Awaitable[None]] | None = None) -> None:
        self._make = make
        self._close = close
        self._lifetimes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[T, AsyncGenerator[T, None]]] = (
            weakref.WeakKeyDictionary()
        )

    async def get(self) -> T:
        """Return the running loop's object."""
        loop = asyncio.get_running_loop()
        if loop not in self._lifetimes:
            # A generator that is never finished: the loop finishes it at its own end. Up to its first `yield` it does
            # not give way to other tasks, so no second object is made.
            lifetime = _lifetime(self._make, self._close, loop, weakref.ref(self._lifetimes))
            self._lifetimes[loop] = (await lifetime.__anext__(), lifetime)
        return self._lifetimes[loop][0]


async def _lifetime(
    make: Callable[[], T],
    close: Callable[[T], Awaitable[None]] | None,
    loop: asyncio.AbstractEventLoop,
    lifetimes: "weakref.ref[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Any]]",
) -> AsyncGenerator[T, None]:
    value = make()
    try:
        yield value
    finally:
        entries = lifetimes()
        if entries is not None:
            entries.pop(loop, None)  # the object may hold the loop, which would then live as long as this
        if close is not None:
            await close(value)
