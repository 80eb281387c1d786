"""Worker processes that turn pages into text, started by vfork, killed when they take too long.

A document gets a short time first. One that needs more is begun again in the slow group, which has places and processes
of its own and the lower priority, so that slow documents delay no others.
"""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from arpo_tools.loop_local import LoopLocal

# The framing is the worker's; importing its module imports none of its parsers.
from arpo_tools.pages.worker_program import LENGTH, READY

_MOST_ANSWER_BYTES = 64 << 20
_MOST_DOCUMENTS = 1000
"""Documents that one worker reads: memory that its parsers leak is freed with its process."""


_QUICK_SECONDS = 0.05
"""CPU time of a document's first attempt: enough for a page of some 500 KB."""
_MOST_START_SECONDS = 30.0
_SLOW_PRIORITY = 10


class PageWorkerError(Exception):
    """The worker crashed on the document or took too long; the next document gets a new one."""


class _TooSlowError(PageWorkerError):
    """The attempt took longer than it may."""


@dataclass(frozen=True)
class PageText:
    """The title and the text of a page."""

    title: str
    text: str
    error: str = ""
    """Why the document can't be read; title and text are then empty."""


class PageWorker:
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
                    str(Path(__file__).with_name("worker_program.py")),
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
        """Have the process read a document.

        Raises:
            PageWorkerError: the process ended.
        """
        await self.start()
        assert self._streams is not None
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

    async def start(self) -> None:
        """Wait until the process has loaded its parsers, which counts against no document's time.

        Raises:
            PageWorkerError: it ended or takes too long.
        """
        if self._streams is not None:
            return
        self._streams = await asyncio.open_connection(sock=self._socket)
        try:
            await asyncio.wait_for(self._streams[0].readexactly(len(READY)), _MOST_START_SECONDS)
        except (asyncio.TimeoutError, OSError, EOFError) as error:
            raise PageWorkerError(f"the page's reader did not start: {error!r}") from error

    def cpu_seconds(self) -> float:
        """Return the CPU time that the process has used so far; infinity where that can't be told."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, IndexError):
            return float("inf")

    def make_slow(self) -> None:
        """Lower the process's priority for good."""
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self._process.pid, _SLOW_PRIORITY)

    def kill(self) -> None:
        """End the process and reap it."""
        self._process.kill()
        self._process.wait()
        if self._streams is not None:
            self._streams[1].transport.abort()
        else:
            self._socket.close()


class WorkerPool:
    """At most `size` workers an event loop for quick documents and as many for slow ones, kept for the next page."""

    def __init__(self, size: int) -> None:
        self._pools: LoopLocal[_Pool] = LoopLocal(lambda: _Pool(size), _Pool.close)

    async def read(self, request: dict[str, object], data: bytes, seconds: float) -> PageText:
        """Have a document read by a worker. Takes up to twice `seconds`, as a slow document has to wait for its turn.

        Raises:
            PageWorkerError: the worker died or took longer than `seconds`.
            OSError: no worker can be started.
        """
        pool = await self._pools.get()
        request = {**request, "seconds": seconds}
        try:
            async with pool.quick.slots:
                return await self._attempt(pool.quick, request, data, seconds)
        except _TooSlowError:
            if seconds <= _QUICK_SECONDS:
                raise
        try:
            await asyncio.wait_for(pool.slow.slots.acquire(), seconds)
        except asyncio.TimeoutError:
            raise PageWorkerError(f"no reader was free for a slow page within {seconds:g} s") from None
        try:
            return await self._attempt(pool.slow, request, data, seconds)
        finally:
            pool.slow.slots.release()

    async def _attempt(
        self, group: "_WorkerGroup", request: dict[str, object], data: bytes, seconds: float
    ) -> PageText:
        worker = group.take()
        is_sound = False
        try:
            await worker.start()
            call = asyncio.ensure_future(worker.answer(request, data))
            try:
                await self._wait(call, worker, seconds, _QUICK_SECONDS if group.is_quick else seconds)
                result = await call
            finally:
                call.cancel()
            worker.documents += 1
            is_sound = worker.documents < _MOST_DOCUMENTS
            return result
        finally:
            group.put_back(worker, is_sound)

    async def _wait(
        self, call: "asyncio.Future[PageText]", worker: PageWorker, seconds: float, cpu_seconds: float
    ) -> None:
        """Wait for an answer.

        Raises:
            _TooSlowError: it takes longer than `seconds`, or than `cpu_seconds` of the processor. On a machine with
                other work a document must not pass for a slow one.
        """
        loop = asyncio.get_running_loop()
        deadline, used = loop.time() + seconds, worker.cpu_seconds()
        while (left := deadline - loop.time()) > 0:
            done, _ = await asyncio.wait([call], timeout=min(cpu_seconds, left))
            if done:
                return
            if cpu_seconds < seconds and worker.cpu_seconds() - used >= cpu_seconds:
                break
        raise _TooSlowError(f"reading the page took longer than {seconds:g} s")


class _WorkerGroup:
    """The workers of quick or of slow documents."""

    def __init__(self, size: int, is_quick: bool) -> None:
        self.slots = asyncio.Semaphore(size)
        self.is_quick = is_quick
        self._idle: list[PageWorker] = []
        self._busy: set[PageWorker] = set()

    def take(self) -> PageWorker:
        """Return an idle worker or a new one.

        Raises:
            OSError: none can be started.
        """
        worker = self._idle.pop() if self._idle else PageWorker()
        if not self.is_quick:
            worker.make_slow()
        self._busy.add(worker)
        return worker

    def put_back(self, worker: PageWorker, is_sound: bool) -> None:
        """Keep a worker for the next document; one that was interrupted would give its answer to the next question."""
        self._busy.discard(worker)
        if is_sound:
            self._idle.append(worker)
        else:
            worker.kill()

    def close(self) -> None:
        for worker in [*self._idle, *self._busy]:
            worker.kill()


class _Pool:
    """The workers of one event loop."""

    def __init__(self, size: int) -> None:
        self.quick = _WorkerGroup(size, is_quick=True)
        self.slow = _WorkerGroup(size, is_quick=False)

    async def close(self) -> None:
        self.quick.close()
        self.slow.close()
