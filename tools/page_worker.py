"""Worker processes that turn pages into text, started by vfork, killed when they take too long."""

import asyncio
import json
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from arpo_tools.loop_local import LoopLocal

# The framing is the worker's; importing its module imports none of its parsers.
from arpo_tools.page_text import LENGTH

_MOST_ANSWER_BYTES = 64 << 20
_MOST_DOCUMENTS = 1000
"""Of one worker: what its parsers lose in memory ends with it."""


class PageWorkerError(Exception):
    """The worker died of the document or took too long; the next document gets a new one."""


@dataclass(frozen=True)
class PageText:
    """What was found in a page."""

    title: str
    text: str
    error: str = ""
    """Why the document can't be read; title and text are then empty."""


class Worker:
    """One process, which reads one document at a time."""

    def __init__(self) -> None:
        """
        Raises:
            OSError: it can't be started.
        """
        ours, theirs = socket.socketpair()
        try:
            # -I and an empty environment: nothing of the caller's is read, its secrets among it. Not asyncio's own
            # subprocess, which forks under uvloop.
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    "-B",
                    str(Path(__file__).with_name("page_text.py")),
                    *filter(None, sys.path),
                ],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={},
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._socket = ours
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.documents = 0

    async def answer(self, request: dict[str, object], data: bytes) -> PageText:
        """
        Raises:
            PageWorkerError: the process died.
        """
        if self._streams is None:
            self._streams = await asyncio.open_connection(sock=self._socket)
        reader, writer = self._streams
        message = json.dumps(request).encode() + b"\n" + data
        try:
            writer.write(LENGTH.pack(len(message)) + message)
            await writer.drain()
            (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
            if size > _MOST_ANSWER_BYTES:
                raise PageWorkerError(f"an answer of {size} bytes")
            fields = json.loads(await reader.readexactly(size))
            return PageText(fields.get("title", ""), fields.get("text", ""), fields.get("error", ""))
        except (OSError, EOFError, ValueError) as error:
            raise PageWorkerError(f"the page's reader died: {error!r}") from error

    def kill(self) -> None:
        """End the process and reap it."""
        self._process.kill()
        self._process.wait()
        if self._streams is not None:
            self._streams[1].transport.abort()
        else:
            self._socket.close()


class WorkerPool:
    """At most `size` workers an event loop, started when they are needed and kept for the next page."""

    def __init__(self, size: int) -> None:
        self._pools: LoopLocal[_Pool] = LoopLocal(lambda: _Pool(size), _Pool.close)

    async def read(self, request: dict[str, object], data: bytes, seconds: float) -> PageText:
        """Have a document read by a worker.

        Raises:
            PageWorkerError: the worker died or took longer than `seconds`.
            OSError: no worker can be started.
        """
        pool = await self._pools.get()
        async with pool.slots:
            worker = pool.idle.pop() if pool.idle else Worker()
            pool.busy.add(worker)
            is_sound = False
            try:
                request = {**request, "seconds": seconds}
                result = await asyncio.wait_for(worker.answer(request, data), seconds)
                worker.documents += 1
                is_sound = worker.documents < _MOST_DOCUMENTS
                return result
            except asyncio.TimeoutError:
                raise PageWorkerError(f"reading the page took longer than {seconds:g} s") from None
            finally:
                pool.busy.discard(worker)
                # A worker that was interrupted would give its answer to the next question.
                if is_sound:
                    pool.idle.append(worker)
                else:
                    worker.kill()


class _Pool:
    """The workers of one event loop."""

    def __init__(self, size: int) -> None:
        self.slots = asyncio.Semaphore(size)
        self.idle: list[Worker] = []
        self.busy: set[Worker] = set()

    async def close(self) -> None:
        for worker in [*self.idle, *self.busy]:
            worker.kill()
