"""The application of the retrieval server: its routes, and how it shares its time and its connections."""

import asyncio
import json
import os
import resource
from typing import Any

from aiohttp import web

from arpo_tools.retrieval_server.connection_limit import ConnectionLimit
from arpo_tools.search.backend import SearchError
from arpo_tools.search.index import Hit
from arpo_tools.search.local import LocalBackend
from arpo_tools.tool import ToolStatus

_MOST_BODY_BYTES = 4 << 20
_MOST_QUERIES = 1024
_MOST_QUERY_CHARS = 4000
_MOST_DOCUMENTS = 100
_MOST_CONNECTIONS = 2048
_BODY_SECONDS = 60.0
"""For a request's body to arrive."""
_REQUEST_SECONDS = 600.0
_BACKLOG = 128
_OTHER_FILES = 64
"""Files of the process beside its connections."""
_SEARCHES = min(4, os.cpu_count() or 1)
"""At once; more would only wait for each other."""
_BACKEND = web.AppKey("backend", LocalBackend)
_TOP_K = web.AppKey("top_k", int)
_LIMIT = web.AppKey("limit", ConnectionLimit)
_TURNS = web.AppKey("turns", asyncio.Semaphore)


def make_app(
    backend: LocalBackend, top_k: int = 3, connections: int | None = None, idle_seconds: float = 60.0
) -> web.Application:
    """Return the application.

    Args:
        top_k: for requests that name none.
        connections: at once, if the application is served by `start`; by default what the system's limit allows.
        idle_seconds: after which a connection without a request is closed.
    """
    limit = ConnectionLimit(_most_connections() if connections is None else connections, idle_seconds, _REQUEST_SECONDS)
    app = web.Application(client_max_size=_MOST_BODY_BYTES, middlewares=[limit.middleware()])
    app.on_response_prepare.append(limit.finished)
    app.cleanup_ctx.append(limit.sweep)
    app[_LIMIT] = limit
    app[_BACKEND] = backend
    app[_TOP_K] = top_k
    app[_TURNS] = asyncio.Semaphore(_SEARCHES)
    app.router.add_post("/retrieve", _retrieve)
    app.router.add_get("/health", _health)
    return app


async def start(app: web.Application, host: str, port: int) -> web.AppRunner:
    """Serve the application until the runner is cleaned up.

    Raises:
        OSError: the address can't be listened on.
    """
    runner = web.AppRunner(app, handle_signals=True, shutdown_timeout=5.0)
    await runner.setup()
    assert runner.server is not None
    app[_LIMIT].attach(runner.server)
    try:
        await web.TCPSite(runner, host, port, backlog=_BACKLOG).start()
    except BaseException:
        await runner.cleanup()
        raise
    return runner


def _most_connections() -> int:
    """Return how many connections fit into the process's files, after raising its limit as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_CONNECTIONS + _BACKLOG + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    # A whole backlog may be accepted before the first is closed.
    return (
        _MOST_CONNECTIONS
        if soft == resource.RLIM_INFINITY
        else max(1, min(_MOST_CONNECTIONS, soft - wanted + _MOST_CONNECTIONS))
    )


async def _health(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


async def _retrieve(request: web.Request) -> web.Response:
    try:
        # Decoded here and not by aiohttp, which looks the charset up that the client names, whatever it is.
        body = json.loads(await asyncio.wait_for(request.read(), _BODY_SECONDS))
        queries, top_k, has_scores = _parse_request(body, request.app[_TOP_K])
    except asyncio.TimeoutError:
        return web.json_response({"error": f"the body did not come within {_BODY_SECONDS:g} s"}, status=408)
    except (ValueError, RecursionError, web.RequestPayloadError) as error:
        return web.json_response({"error": f"{error}"[:300]}, status=400)
    try:
        parts = await _search_all(request.app, queries, top_k, has_scores)
    except SearchError as error:
        return web.json_response({"error": str(error)}, status=500)
    return web.Response(body=b'{"result": [' + b", ".join(parts) + b"]}", content_type="application/json")


async def _search_all(app: web.Application, queries: list[str], top_k: int, has_scores: bool) -> list[bytes]:
    """Return the JSON of each query's list.

    Raises:
        SearchError: the index failed.
    """
    parts: list[bytes] = [b""] * len(queries)
    left = iter(enumerate(queries))

    async def work() -> None:
        for number, query in left:
            # Searches are served in order, and each request has few of them waiting: requests take turns.
            async with app[_TURNS]:
                hits = await _hits(app[_BACKEND], query, top_k)
            parts[number] = json.dumps([_item(hit, has_scores) for hit in hits]).encode()

    workers = [asyncio.ensure_future(work()) for _ in range(min(_SEARCHES, len(queries)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
    return parts


def _parse_request(body: Any, default_top_k: int) -> tuple[list[str], int, bool]:
    """
    Raises:
        ValueError: the body has another shape.
    """
    queries = body.get("queries") if isinstance(body, dict) else None
    if not isinstance(queries, list) or not all(isinstance(query, str) for query in queries):
        raise ValueError('expected {"queries": [text, ...], "topk": number, "return_scores": true or false}')
    if len(queries) > _MOST_QUERIES:
        raise ValueError(f"got {len(queries)} queries; at most {_MOST_QUERIES} fit one request")
    top_k = default_top_k if body.get("topk") is None else body["topk"]
    if not isinstance(top_k, int) or isinstance(top_k, bool) or not 1 <= top_k <= _MOST_DOCUMENTS:
        raise ValueError(f"got topk={top_k!r}; expected a whole number from 1 to {_MOST_DOCUMENTS}")
    return [query[:_MOST_QUERY_CHARS] for query in queries], top_k, body.get("return_scores") is True


async def _hits(backend: LocalBackend, query: str, top_k: int) -> list[Hit]:
    """Return a query's documents; one without words has none, which must not fail the whole batch."""
    try:
        return await backend.hits(query, top_k)
    except SearchError as error:
        if error.status is ToolStatus.MODEL_ERROR:
            return []
        raise


def _item(hit: Hit, has_scores: bool) -> dict[str, Any]:
    found = hit.document
    contents = f'"{found.title}"\n{found.contents}' if found.title else found.contents
    document = {"id": found.id, "contents": contents}
    if found.url:
        document["url"] = found.url
    return {"document": document, "score": hit.score} if has_scores else document
