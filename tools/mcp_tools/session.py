"""One session with an MCP server. Its methods run in one event loop; none of them waits without a limit."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from mcp import Client, MCPError
from mcp.types import CallToolResult, Tool
from mcp_types import CONNECTION_CLOSED

from arpo_tools.mcp_tools.address import Address, Limits, Seen
from arpo_tools.redaction import redact
from arpo_tools.tool import ToolStatus

logger = logging.getLogger(__name__)

LIFE_SECONDS = 2.0
"""Time in which a server that works answers a question about its tools."""
CLOSE_SECONDS = 8.0
"""Time that the end of a session may take: the library gives a process 2 s to end by itself and 2 s after SIGTERM."""
MOST_PAGES = 100
SESSION_TERMINATED = "Session terminated"
"""The library's message where a server does not know the session any more (`client/streamable_http.py`, 404)."""


class ServerError(Exception):
    """The server failed, or a call can't be made; `status` says whose fault it is."""

    def __init__(self, message: str, status: ToolStatus = ToolStatus.INFRASTRUCTURE_ERROR) -> None:
        super().__init__(message)
        self.status = status


class Session:
    """A connection, owned by a task of its own: the library's connections end in the task that began them."""

    def __init__(self, address: Address, limits: Limits, is_shared: bool) -> None:
        """
        Args:
            address: the server's.
            limits: on time and size.
            is_shared: false for a session whose state belongs to one leaf.
        """
        self._address = address
        self._limits = limits
        self._is_shared = is_shared
        self._seen = Seen()
        self._stop = asyncio.Event()
        self._ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._failure = "it has closed the connection"
        self._owner = asyncio.create_task(self._own())

    async def begin(self) -> None:
        """Wait for the server's start and its handshake.

        Raises:
            ServerError: it does not start, does not answer, or keeps no sessions where one is needed.
        """
        begun: set[asyncio.Future[Any]] = {self._ready, self._owner}
        seconds, label = self._limits.start_seconds, self._address.label
        try:
            await asyncio.wait(begun, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if not self._ready.done():
                raise self._error(f"no handshake in {seconds:g} s")
            self._ready.result()
            if not self._is_shared and self._address.url is not None and not self._seen.has_session:
                raise ServerError(
                    f"MCP server {label} gives no session (Mcp-Session-Id), so that all its callers share what it "
                    f"keeps; expected one for each leaf: let it keep sessions, or state stateless: true"
                )
        except BaseException:
            self.stop()
            raise

    async def _own(self) -> None:
        # The handshake of old is the one that has sessions, and what a server may keep belongs to them.
        mode = "auto" if self._is_shared else "legacy"
        try:
            async with (
                self._address.open(self._limits, self._seen) as streams,
                Client(_Opened(streams), mode=mode, cache=None) as client,
            ):
                self._ready.set_result(client)
                await self._stop.wait()
        except BaseException as error:  # groups of exceptions, and cancellations by the library's own scopes
            self._failure = _reason(error)
        if not self._ready.done():
            self._ready.set_exception(self._error(self._failure))
            self._ready.exception()  # read, should nobody wait any more

    @property
    def is_over(self) -> bool:
        return self._stop.is_set() or self._owner.done()

    def _error(self, reason: str) -> ServerError:
        if self._seen.refusal is not None:
            return ServerError(
                f"MCP server {self._address.label} refuses the key: HTTP {self._seen.refusal}; see `headers`",
                ToolStatus.REFUSED,
            )
        return ServerError(f"MCP server {self._address.label} failed: {redact(reason)}")

    async def tools(self) -> list[Tool]:
        """Return the server's tools.

        Raises:
            ServerError: it gives none in time.
        """
        tools: list[Tool] = await self._asked(self._pages(), self._limits.call_seconds)
        return tools

    async def _pages(self) -> list[Tool]:
        found, cursor = [], None
        for _ in range(MOST_PAGES):
            page = await self._ready.result().list_tools(cursor=cursor)
            found += page.tools
            cursor = page.next_cursor
            if cursor is None:
                break
        return found

    async def call(self, name: str, arguments: dict[str, Any]) -> CallToolResult:
        """Call a tool.

        Raises:
            TimeoutError: no answer in time, from a server that answers other questions.
            ServerError: the server is gone, hangs, or said what is no answer; the session is over.
            mcp.MCPError: the server's own error.
        """
        seconds = self._limits.call_seconds
        try:
            result: CallToolResult = await self._asked(self._ready.result().call_tool(name, arguments), seconds)
        except MCPError as error:
            if error.code == CONNECTION_CLOSED or error.message == SESSION_TERMINATED:
                self.stop()
            raise
        except asyncio.TimeoutError:
            if await self._lives():
                raise
            self.stop()
            raise self._error(f"no answer in {seconds:g} s, nor to the question that followed") from None
        return result

    async def _lives(self) -> bool:
        try:
            await self._asked(self._ready.result().list_tools(), LIFE_SECONDS)
        except Exception:
            return False
        return True

    async def _asked(self, question: Any, seconds: float) -> Any:
        """Await an answer, or the end of the session, or the end of the time, whichever comes first."""
        asking = asyncio.ensure_future(question)
        try:
            await asyncio.wait({asking, self._owner}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if asking.done():
                return asking.result()
            if self.is_over:
                raise self._error(self._failure)
            raise asyncio.TimeoutError
        finally:
            asking.cancel()
            asking.add_done_callback(lambda task: task.cancelled() or task.exception())

    def when_over(self, do: Callable[[], None]) -> None:
        """Have something done when the session has ended."""
        self._owner.add_done_callback(lambda _: do())

    def stop(self) -> None:
        """Begin to end the session."""
        if not self._ready.done() and not self._stop.is_set():  # it waits for a handshake, and not to be stopped
            self._owner.cancel()
        self._stop.set()

    async def close(self) -> None:
        """End the session, and its process, and wait for a limited time."""
        self.stop()
        _, running = await asyncio.wait({self._owner}, timeout=CLOSE_SECONDS)
        if running:
            self._owner.cancel()
            logger.warning("MCP server %s did not end in %g s and is left behind", self._address.label, CLOSE_SECONDS)


class _Opened(contextlib.AbstractAsyncContextManager[Any]):
    """Streams that are open already, as the library takes them."""

    def __init__(self, streams: Any) -> None:
        self._streams = streams

    async def __aenter__(self) -> Any:
        return self._streams

    async def __aexit__(self, *error: Any) -> None:
        """Leave them to whoever has opened them."""


def _reason(error: BaseException) -> str:
    """Return what has gone wrong; of a group of exceptions, its first."""
    while isinstance(inner := getattr(error, "exceptions", (None,))[0], BaseException):
        error = inner
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
