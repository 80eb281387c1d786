"""An MCP server whose tools are called from any event loop; its sessions live in a thread of their own."""

import asyncio
import atexit
import concurrent.futures
import threading
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from mcp.types import Tool

from arpo_tools.mcp_tools.address import Address, Limits
from arpo_tools.mcp_tools.answers import answered, failed
from arpo_tools.mcp_tools.session import CLOSE_SECONDS, LIFE_SECONDS, ServerError, Session
from arpo_tools.tool import ToolResult, ToolStatus

Value = TypeVar("Value")

PAUSE_SECONDS = 5.0
"""For so long after a start that failed, no other is tried."""
_SPARE_SECONDS = 2.0


class McpServer:
    """Calls tools, in a session that all calls share or in sessions of one's own. Never waits without a limit."""

    def __init__(self, address: Address, limits: Limits | None = None) -> None:
        self.address = address
        self.limits = limits or Limits()
        self._loop = asyncio.new_event_loop()
        self._shared: Session | None = None
        self._opening: asyncio.Lock | None = None
        self._failed: tuple[float, ServerError] | None = None
        """When the last start failed, and why."""
        self._sessions: set[Session] = set()
        threading.Thread(target=self._loop.run_forever, name=f"MCP {address.label[:50]}", daemon=True).start()
        atexit.register(self.close)

    async def _there(self, work: Coroutine[Any, Any, Value], seconds: float) -> Value:
        """Await something in the server's thread, which may be busy with a large answer."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        return await asyncio.wait_for(asyncio.wrap_future(future), seconds + _SPARE_SECONDS)

    def list_tools(self) -> list[Tool]:
        """Return the server's tools, from a session that is closed again. Blocks.

        Raises:
            ServerError: it can't be reached, or gives none.
        """

        async def run() -> list[Tool]:
            session = await self._open(is_shared=True)
            try:
                return await session.tools()
            except asyncio.TimeoutError:
                raise ServerError(
                    f"MCP server {self.address.label} gave no list of its tools in {self.limits.call_seconds:g} s"
                ) from None
            finally:
                await session.close()

        seconds = self.limits.start_seconds + self.limits.call_seconds + CLOSE_SECONDS + _SPARE_SECONDS
        try:
            return asyncio.run_coroutine_threadsafe(run(), self._loop).result(seconds)
        except concurrent.futures.TimeoutError:
            raise ServerError(f"MCP server {self.address.label} keeps its client busy") from None

    async def open(self) -> Session:
        """Open a session of one's own.

        Raises:
            ServerError: the server does not start, or keeps no sessions.
        """
        return await self._there(self._open(is_shared=False), self.limits.start_seconds)

    async def _open(self, is_shared: bool) -> Session:
        session = Session(self.address, self.limits, is_shared)
        self._sessions.add(session)
        session.when_over(lambda: self._sessions.discard(session))
        await session.begin()
        return session

    async def close_session(self, session: Session) -> None:
        """End a session of one's own."""
        await self._there(session.close(), CLOSE_SECONDS)

    async def call(self, name: str, arguments: dict[str, Any], session: Session | None = None) -> ToolResult:
        """Call a tool, in a session of one's own or in the shared one."""
        start = 0.0 if session is not None else self.limits.start_seconds
        seconds = start + self.limits.call_seconds + LIFE_SECONDS
        try:
            return await self._there(self._called(name, arguments, session), seconds)
        except asyncio.TimeoutError:
            return failed(name, ServerError(f"MCP server {self.address.label} keeps its client busy"))

    async def _called(self, name: str, arguments: dict[str, Any], session: Session | None) -> ToolResult:
        try:
            used = await self._shared_session() if session is None else session
            return answered(await used.call(name, arguments))
        except asyncio.TimeoutError:
            text = f"Error: '{name}' takes longer than {self.limits.call_seconds:g} s."
            return ToolResult(text, ToolStatus.TIMEOUT)
        except Exception as error:  # the library's, of the protocol, of answers that are none
            return failed(name, error)

    async def _shared_session(self) -> Session:
        if self._opening is None:
            self._opening = asyncio.Lock()
        async with self._opening:
            if self._shared is None or self._shared.is_over:
                if self._failed is not None and time.monotonic() - self._failed[0] < PAUSE_SECONDS:
                    raise self._failed[1]
                try:
                    self._shared = await self._open(is_shared=True)
                except ServerError as error:
                    self._failed = time.monotonic(), error
                    raise
            return self._shared

    def close(self) -> None:
        """End all sessions, for the end of the process. Blocks for a limited time."""
        atexit.unregister(self.close)

        async def run() -> None:
            await asyncio.gather(*(session.close() for session in list(self._sessions)))

        try:
            asyncio.run_coroutine_threadsafe(run(), self._loop).result(CLOSE_SECONDS + _SPARE_SECONDS)
        except Exception:  # the process ends all the same, and a server's pipes with it
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
