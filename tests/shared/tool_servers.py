"""HTTP servers for tests of the tools, on the test's own event loop and on real sockets."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Server:
    """A server that gives `answers` in turn, the last one for ever, and keeps what it was asked."""

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)


@contextlib.asynccontextmanager
async def serving(*answers: Answer, host: str = "127.0.0.1") -> AsyncIterator[Server]:
    server = Server("")

    async def handle(request: web.Request) -> web.StreamResponse:
        body = await request.text()
        server.requests.append(
            {
                "method": request.method,
                "path": request.path,
                "headers": dict(request.headers),
                "params": dict(request.query),
                "json": json.loads(body) if body else None,
            }
        )
        return await answers[min(len(server.requests), len(answers)) - 1](request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.01)  # 0 would wait for ever for `never`
    await runner.setup()
    site = web.TCPSite(runner, host, 0)
    await site.start()
    server.url = f"http://{host}:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def speaking(talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[str]:
    """A server below HTTP, for what no HTTP library would send."""
    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def answer(body: object, status: int = 200, **headers: str) -> Answer:
    """Answer with JSON, or with text as it is."""

    async def give(request: web.Request) -> web.StreamResponse:
        text = body if isinstance(body, str) else json.dumps(body)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(text=text, status=status, headers=names, content_type="application/json")

    return give


def page(text: str | bytes, content_type: str = "text/html", **headers: str) -> Answer:
    """Answer with a page."""

    async def give(request: web.Request) -> web.StreamResponse:
        body = text.encode() if isinstance(text, str) else text
        names = {"Content-Type": content_type, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return web.Response(body=body, headers=names)

    return give


def redirect(to: str, status: int = 302) -> Answer:
    async def give(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": to})

    return give


async def never(request: web.Request) -> web.StreamResponse:
    """Answer nothing."""
    await asyncio.sleep(3600)
    return web.Response()


async def cut_short(request: web.Request) -> web.StreamResponse:
    """Promise more than is sent."""
    response = web.StreamResponse(headers={"Content-Length": "100", "Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b'{"organic": [')
    assert request.transport is not None
    request.transport.abort()
    return response
