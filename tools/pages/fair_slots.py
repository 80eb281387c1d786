"""A limit on concurrent calls that slow calls do not use up."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class FairSlots:
    """A number of slots; a call that has held one for `seconds` goes on, but no longer makes others wait.

    Slots are given in the order of asking. How many calls are under way in all is for the caller to limit.
    """

    def __init__(self, size: int, seconds: float) -> None:
        self._semaphore = asyncio.Semaphore(size)
        self._seconds = seconds

    @contextlib.asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Wait for a slot and hold it."""
        await self._semaphore.acquire()
        is_held = True

        def leave() -> None:
            nonlocal is_held
            if is_held:
                is_held = False
                self._semaphore.release()

        timer = asyncio.get_running_loop().call_later(self._seconds, leave)
        try:
            yield
        finally:
            timer.cancel()
            leave()
