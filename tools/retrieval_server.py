"""Serves a local corpus by Search-R1's protocol: `python -m arpo_tools.retrieval_server --corpus FILE --port 8000`.

`POST /retrieve {"queries": [...], "topk": 3, "return_scores": true}` answers with one list a query, in order:
`{"result": [[{"document": {"id": ..., "contents": "\\"Title\\"\\ntext"}, "score": 12.3}, ...], ...]}`; without scores
the lists hold the documents themselves. `GET /health` answers `{"status": "ok"}` once the index is open.

What is not covered: there is no key and no encryption. Listen on an address that only the training machines can reach.
"""

import argparse
import asyncio
import sys
from typing import Any

from aiohttp import web

from arpo_tools.search.corpus import CorpusError
from arpo_tools.search.index import ENGINES, DamagedIndexError, Hit
from arpo_tools.search.local import LocalBackend
from arpo_tools.search.passage import SearchError
from arpo_tools.tool import ToolStatus

_MOST_BODY_BYTES = 4 << 20
_MOST_QUERIES = 1024
_MOST_QUERY_CHARS = 4000
_MOST_DOCUMENTS = 100
_BACKEND = web.AppKey("backend", LocalBackend)
_TOP_K = web.AppKey("top_k", int)


def make_app(backend: LocalBackend, top_k: int = 3) -> web.Application:
    """Return the application; `top_k` is for requests that name none."""
    app = web.Application(client_max_size=_MOST_BODY_BYTES)
    app[_BACKEND] = backend
    app[_TOP_K] = top_k
    app.router.add_post("/retrieve", _retrieve)
    app.router.add_get("/health", _health)
    return app


async def _health(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


async def _retrieve(request: web.Request) -> web.Response:
    try:
        queries, top_k, has_scores = _question(await request.json(), request.app[_TOP_K])
    except (ValueError, RecursionError) as error:
        return web.json_response({"error": f"{error}"[:300]}, status=400)
    backend = request.app[_BACKEND]
    try:
        hits = await asyncio.gather(*(_hits(backend, query, top_k) for query in queries))
    except SearchError as error:
        return web.json_response({"error": str(error)}, status=500)
    return web.json_response({"result": [[_item(hit, has_scores) for hit in found] for found in hits]})


def _question(body: Any, usual_top_k: int) -> tuple[list[str], int, bool]:
    """
    Raises:
        ValueError: the body is no question.
    """
    queries = body.get("queries") if isinstance(body, dict) else None
    if not isinstance(queries, list) or not all(isinstance(query, str) for query in queries):
        raise ValueError('expected {"queries": [text, ...], "topk": number, "return_scores": true or false}')
    if len(queries) > _MOST_QUERIES:
        raise ValueError(f"got {len(queries)} queries; at most {_MOST_QUERIES} fit one request")
    top_k = usual_top_k if body.get("topk") is None else body["topk"]
    if not isinstance(top_k, int) or isinstance(top_k, bool) or not 1 <= top_k <= _MOST_DOCUMENTS:
        raise ValueError(f"got topk={top_k!r}; expected a whole number from 1 to {_MOST_DOCUMENTS}")
    return [query[:_MOST_QUERY_CHARS] for query in queries], top_k, body.get("return_scores") is True


async def _hits(backend: LocalBackend, query: str, top_k: int) -> list[Hit]:
    """Return a query's documents; one without words has none, which must not spoil its neighbours."""
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


def main(arguments: list[str] | None = None) -> int:
    """Open the index and serve until interrupted; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m arpo_tools.retrieval_server", description=__doc__)
    parser.add_argument("--corpus", required=True, help='JSONL, {"title": ..., "contents": ...} a line')
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--top-k", type=int, default=3, help="for requests that name none (default: %(default)s)")
    parser.add_argument("--engine", choices=ENGINES, default="auto")
    options = parser.parse_args(arguments)
    try:
        backend = LocalBackend(options.corpus, options.engine)
    except (CorpusError, DamagedIndexError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    web.run_app(make_app(backend, options.top_k), host=options.host, port=options.port)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
