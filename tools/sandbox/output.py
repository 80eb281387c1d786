"""Reads what a program prints from a pipe, without waiting and up to a limit."""

import asyncio
import os
from collections.abc import Callable

_CHUNK_BYTES = 1 << 16
_PAUSE_SECONDS = 0.02
"""Between two reads: a program that prints byte by byte must not keep the loop busy. A pipe holds 64 KB meanwhile."""


class Output:
    """The read end of a program's output, on the running event loop."""

    def __init__(self, max_bytes: int, on_excess: Callable[[], None]) -> None:
        """Open the pipe.

        Args:
            max_bytes: what is kept.
            on_excess: called once when there is more; nothing is read from then on.
        """
        self.is_cut = False
        self._max_bytes = max_bytes
        self._on_excess = on_excess
        self._kept = bytearray()
        self._loop = asyncio.get_running_loop()
        self._read_end, self.write_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._read_end, False)
        self._is_watched = False
        self._resumption: asyncio.TimerHandle | None = None
        self._watch()

    def close_write_end(self) -> None:
        """Leave the write end to the program, after it was sent."""
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    def finish(self) -> bytes:
        """Return what was printed, without waiting for anybody who might still hold the pipe, and close it."""
        while not self.is_cut and self._read_chunk():
            pass
        self.close()
        return bytes(self._kept[: self._max_bytes])

    def close(self) -> None:
        """Close both ends; may be called again."""
        self._unwatch()
        self.close_write_end()
        if self._read_end >= 0:
            os.close(self._read_end)
            self._read_end = -1

    def _watch(self) -> None:
        self._resumption = None
        self._is_watched = True
        self._loop.add_reader(self._read_end, self._read_some)

    def _unwatch(self) -> None:
        if self._resumption is not None:
            self._resumption.cancel()
        if self._is_watched:
            self._is_watched = False
            if not self._loop.is_closed():
                self._loop.remove_reader(self._read_end)

    def _read_some(self) -> None:
        may_have_more = self._read_chunk()
        self._unwatch()
        if self.is_cut:
            self._on_excess()
        elif may_have_more:
            self._resumption = self._loop.call_later(_PAUSE_SECONDS, self._watch)

    def _read_chunk(self) -> bool:
        """Read once; return whether there may be more."""
        try:
            chunk = os.read(self._read_end, _CHUNK_BYTES)
        except BlockingIOError:
            return False
        self._kept += chunk
        self.is_cut = len(self._kept) > self._max_bytes
        return bool(chunk)
