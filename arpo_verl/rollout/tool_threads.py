"""Runs a tool's code where it can be left behind: whatever blocks there holds up neither the rollout nor its end.

A plain function gets a daemon thread of its own for each call. asyncio's default executor would not do: it has few
threads (six on two cores), the tokenizer needs them, and the end of the process waits for them.

The coroutines of one tool share an event loop of its own in a daemon thread, because they keep connections and locks
that belong to a loop. A loop that a coroutine blocks is replaced, so that the tool's later calls are not held up.

What the code raises comes out as an exception of the call: SystemExit, KeyboardInterrupt and a CancelledError that
nobody asked for come out as `ToolAborted`. Not covered: code that never gives up the interpreter's lock, such as a
regular expression that backtracks for ever, stops the whole process; an endless loop takes its share of the processor
until the process ends.
"""

import asyncio
import contextvars
import functools
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)

END_SECONDS = 0.5
"""How long a cancelled coroutine may take to end before its caller goes on."""
RESPONSE_SECONDS = 5.0
"""How long the event loop of a call that had to be cancelled may be silent before it is replaced."""


class ToolAborted(RuntimeError):
    """A tool raised what would end a program."""


@dataclass(frozen=True)
class Outcome:
    """What came of a call."""

    value: Any = None
    error: BaseException | None = None

    def unwrap(self) -> Any:
        """Return the value.

        Raises:
            ToolAborted: the tool raised no `Exception`.
            Exception: what else the tool raised.
        """
        if self.error is None:
            return self.value
        if isinstance(self.error, Exception):
            raise self.error
        raise ToolAborted(f"it raised {self.error!r}") from self.error


async def run_in_thread(name: str, function: Callable[[], Any]) -> Any:
    """Call a function in a daemon thread of its own and return its value; when cancelled, leave it behind."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Outcome] = loop.create_future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            outcome = Outcome(context.run(function))
        except BaseException as error:
            outcome = Outcome(error=error)
        _deliver(loop, ended, outcome)

    threading.Thread(target=run, name=f"tool {name}", daemon=True).start()
    return (await ended).unwrap()


class ToolLoop:
    """The event loop of one tool, in a daemon thread."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked: tuple[float, threading.Event] | None = None
        """When the loop was last asked to say something, and whether it has."""

    async def run(self, start: Callable[[], Awaitable[Any]]) -> Any:
        """Await what `start` returns, both on the tool's loop, and return its value.

        When cancelled, cancel it there and wait for `END_SECONDS` at most.
        """
        loop = await self._responsive_loop()
        here = asyncio.get_running_loop()
        ended: asyncio.Future[Outcome] = here.create_future()
        call = _Call(start, lambda outcome: _deliver(here, ended, outcome))
        loop.call_soon_threadsafe(call.begin)
        try:
            await asyncio.wait({ended})
        except asyncio.CancelledError:
            loop.call_soon_threadsafe(call.cancel)
            self._ask(loop)
            await asyncio.wait({ended}, timeout=END_SECONDS)
            raise
        return ended.result().unwrap()

    def _ask(self, loop: asyncio.AbstractEventLoop) -> None:
        answered = threading.Event()
        with self._lock:
            if self._asked is None or self._asked[1].is_set():
                self._asked = (time.monotonic(), answered)
        loop.call_soon_threadsafe(answered.set)

    async def _responsive_loop(self) -> asyncio.AbstractEventLoop:
        while self._loop is not None and self._asked is not None and not self._asked[1].is_set():
            if time.monotonic() - self._asked[0] > RESPONSE_SECONDS:
                logger.error(
                    "tool %r blocks its event loop; its further calls get another one: an async tool must not call "
                    "what blocks (asyncio.to_thread takes that)",
                    self._name,
                )
                self._loop = None
                break
            await asyncio.sleep(0.05)
        with self._lock:
            if self._loop is None:
                self._loop, self._asked = asyncio.new_event_loop(), None
                threading.Thread(target=_serve, args=(self._loop,), name=f"tool {self._name}", daemon=True).start()
            return self._loop


@functools.cache
def loop_of(name: str) -> ToolLoop:
    """Return the one loop of a tool in this process."""
    return ToolLoop(name)


class _Call:
    """One awaitable on a tool's loop; its methods run in the loop's thread."""

    def __init__(self, start: Callable[[], Awaitable[Any]], report: Callable[[Outcome], None]) -> None:
        self._start = start
        self._report = report
        self._task: asyncio.Task[None] | None = None
        self._is_cancelled = False

    def begin(self) -> None:
        if not self._is_cancelled:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def cancel(self) -> None:
        self._is_cancelled = True
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            outcome = Outcome(await self._start())
        except BaseException as error:  # a task that raises SystemExit would end the loop
            outcome = Outcome(error=error)
        self._report(outcome)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    while True:
        try:
            loop.run_forever()
        except BaseException as error:  # of a task or a callback that the tool has left to itself
            logger.error("a tool raised %r outside its call", error)


def _deliver(loop: asyncio.AbstractEventLoop, ended: "asyncio.Future[Outcome]", outcome: Outcome) -> None:
    def set_outcome() -> None:
        if not ended.done():
            ended.set_result(outcome)

    try:
        loop.call_soon_threadsafe(set_outcome)
    except RuntimeError:  # the rollout's loop is closed: nobody waits any more
        logger.debug("a tool's call has ended after the rollout")
