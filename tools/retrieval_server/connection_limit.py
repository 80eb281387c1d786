"""A limit on an aiohttp server's connections: an idle one makes room for a new one, and none stays idle for ever."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Middleware

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_SWEEP_SECONDS = 1.0


class ConnectionLimit:
    """The connections of one server, and since when each is idle or busy.

    A connection is idle while it has no whole request head, so one that sends its head a byte at a time is, too.
    """

    def __init__(self, most: int, idle_seconds: float, request_seconds: float) -> None:
        """
        Args:
            most: connections at once. The one more closes that which has been idle longest, or else itself.
            idle_seconds: after which an idle connection is closed.
            request_seconds: after which a request is given up, which includes its body and reading the answer.
        """
        self._most = most
        self._idle_seconds = idle_seconds
        self._request_seconds = request_seconds
        self._transports: dict[asyncio.BaseProtocol, asyncio.Transport] = {}
        self._idle_since: dict[asyncio.BaseProtocol, float] = {}  # in the order of time
        self._busy_since: dict[asyncio.BaseProtocol, float] = {}

    def attach(self, server: web.Server) -> None:
        """Attach to a server without connections yet; aiohttp has no public hook, but calls these two methods."""
        stock_made, stock_lost = server.connection_made, server.connection_lost

        def connection_made(handler: web.RequestHandler, transport: asyncio.Transport) -> None:
            stock_made(handler, transport)
            self._on_connection(handler, transport)

        def connection_lost(handler: web.RequestHandler, error: BaseException | None = None) -> None:
            self._on_disconnection(handler)
            stock_lost(handler, error)

        server.connection_made = connection_made  # type: ignore[method-assign]
        server.connection_lost = connection_lost  # type: ignore[method-assign, assignment]

    def middleware(self) -> Middleware:
        """Return the middleware that notes when a request begins."""

        @web.middleware
        async def watch(request: web.Request, handler: Handler) -> web.StreamResponse:
            self._idle_since.pop(request.protocol, None)
            self._busy_since[request.protocol] = asyncio.get_running_loop().time()
            return await handler(request)

        return watch

    async def finished(self, request: web.Request, response: web.StreamResponse) -> None:
        """Signal `on_response_prepare`: the answer is on its way; what is left to do is the client's reading."""
        if request.protocol in self._transports:
            self._busy_since.pop(request.protocol, None)
            self._idle_since[request.protocol] = asyncio.get_running_loop().time()

    async def sweep(self, app: web.Application) -> AsyncIterator[None]:
        """Close what has taken too long, for as long as the application runs: for `cleanup_ctx`."""
        task = asyncio.create_task(self._sweep_on())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def _sweep_on(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = asyncio.get_running_loop().time()
            late = [one for one, since in self._idle_since.items() if now - since > self._idle_seconds]
            late += [one for one, since in self._busy_since.items() if now - since > self._request_seconds]
            for handler in late:
                self._close(handler)

    def _on_connection(self, handler: asyncio.BaseProtocol, transport: asyncio.Transport) -> None:
        self._transports[handler] = transport
        self._idle_since[handler] = asyncio.get_running_loop().time()
        if len(self._transports) > self._most:
            self._close(next(iter(self._idle_since)))  # at the latest the new one

    def _on_disconnection(self, handler: asyncio.BaseProtocol) -> None:
        for record in (self._transports, self._idle_since, self._busy_since):
            record.pop(handler, None)

    def _close(self, handler: asyncio.BaseProtocol) -> None:
        transport = self._transports.get(handler)
        self._on_disconnection(handler)
        if transport is not None:
            transport.abort()
