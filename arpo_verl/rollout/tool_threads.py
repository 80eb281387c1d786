"""Runs a tool's code in threads that can be left behind: code that blocks there delays neither the rollout nor its end.

A plain function gets a daemon thread of its own for each call. asyncio's default executor would not do: it has few
threads (six on two cores), the tokenizer needs them, and the end of the process waits for them.

The coroutines of one tool share an event loop of its own in a daemon thread, because they keep connections and locks
that belong to a loop. While a coroutine blocks the loop, later calls get another one, so that they are not held up; as
soon as the first loop answers again they go back to it, where the tool's sessions work.

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
from typing import Any, TypeVar

Value = TypeVar("Value")

logger = logging.getLogger(__name__)

END_SECONDS = 0.5
"""Time that a cancelled coroutine may take to end before its caller goes on."""
RESPONSE_SECONDS = 5.0
"""Time that the event loop of a cancelled call may take to respond before another one replaces it."""


class ToolAborted(RuntimeError):
    """A tool raised an exception that would end a program, such as SystemExit."""


@dataclass(frozen=True)
class Outcome:
    """The value of a call, or its error."""

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


class _LoopThread:
    """An event loop in a daemon thread of its own, which can be pinged."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.is_replaced = False
        """Later calls run on another loop."""
        self._pinged: tuple[float, threading.Event] | None = None
        """The time of the last ping, and whether the loop has answered it."""
        threading.Thread(target=_run_loop, args=(self.loop,), name=f"tool {name}", daemon=True).start()

    def ping(self) -> None:
        answered = threading.Event()
        if self._pinged is None or self._pinged[1].is_set():
            self._pinged = (time.monotonic(), answered)
        self.loop.call_soon_threadsafe(answered.set)

    @property
    def unanswered_seconds(self) -> float:
        """The time for which a ping has had no answer; 0 if none is unanswered."""
        if self._pinged is None or self._pinged[1].is_set():
            return 0.0
        return time.monotonic() - self._pinged[0]


class ToolLoop:
    """The event loop of one tool, and those that replace it while it is blocked."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._threads: list[_LoopThread] = []
        """The loops in order of creation: a call goes to the first that is not blocked."""

    async def run(self, start: Callable[[], Awaitable[Value]]) -> Value:
        """Await what `start` returns, both on the tool's loop, and return its value.

        When cancelled, cancel it there and wait for `END_SECONDS` at most.
        """
        thread = await self._responsive_thread()
        here = asyncio.get_running_loop()
        ended: asyncio.Future[Outcome] = here.create_future()
        call = _Call(start, lambda outcome: _deliver(here, ended, outcome))
        thread.loop.call_soon_threadsafe(call.begin)
        try:
            await asyncio.wait({ended})
        except asyncio.CancelledError:
            thread.loop.call_soon_threadsafe(call.cancel)
            with self._lock:
                thread.ping()
            await asyncio.wait({ended}, timeout=END_SECONDS)
            raise
        value: Value = ended.result().unwrap()
        return value

    async def _responsive_thread(self) -> _LoopThread:
        while True:
            with self._lock:
                index = next(
                    (i for i, one in enumerate(self._threads) if one.unanswered_seconds <= RESPONSE_SECONDS), None
                )
                if index is None:
                    self._threads.append(_LoopThread(self._name))
                    index = len(self._threads) - 1
                self._log_replacements(index)
                chosen = self._threads[index]
                if not chosen.unanswered_seconds:
                    return chosen
            await asyncio.sleep(0.05)

    def _log_replacements(self, chosen: int) -> None:
        """Log which loops have been replaced, and that one is used again."""
        for thread in self._threads[:chosen]:
            if not thread.is_replaced:
                thread.is_replaced = True
                logger.error(
                    "tool %r blocks its event loop; its further calls get another one until that loop answers again, "
                    "on which sessions and locks of the first do not work: an async tool must not call what blocks "
                    "(asyncio.to_thread takes that)",
                    self._name,
                )
        thread = self._threads[chosen]
        if thread.is_replaced and not thread.unanswered_seconds:
            thread.is_replaced = False
            logger.warning("tool %r: its event loop answers again and gets its further calls", self._name)


@functools.cache
def tool_loop(name: str) -> ToolLoop:
    """Return the one `ToolLoop` of a tool in this process."""
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


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
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
