"""Serves a local corpus by Search-R1's protocol: `python -m arpo_tools.retrieval_server --corpus FILE --port 8000`.

`POST /retrieve {"queries": [...], "topk": 3, "return_scores": true}` answers with one list a query, in order:
`{"result": [[{"document": {"id": ..., "contents": "\\"Title\\"\\ntext"}, "score": 12.3}, ...], ...]}`; without scores
the lists hold the documents themselves. `GET /health` answers `{"status": "ok"}` once the index is open.

What is covered: queries of requests under way take turns, so a large batch keeps no single query waiting; a limit on
connections, of which an idle one makes room for a new one; a limit on log lines of one kind. What is not covered: there
is no key and no encryption. Listen on an address that only the training machines can reach.
"""

import argparse
import asyncio
import logging
import sys

from aiohttp import web

from arpo_tools.retrieval_server.app import make_app, start
from arpo_tools.retrieval_server.log_limit import LogLimit
from arpo_tools.search.corpus import CorpusError
from arpo_tools.search.index import DamagedIndexError
from arpo_tools.search.local import LocalBackend
from arpo_tools.search.open_index import ENGINES


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
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(LogLimit())
    try:
        asyncio.run(_serve(make_app(backend, options.top_k), options.host, options.port))
    except OSError as error:
        print(
            f"error: {options.host}:{options.port} can't be listened on ({error}): give another --port", file=sys.stderr
        )
        return 1
    except (KeyboardInterrupt, web.GracefulExit):
        pass
    return 0


async def _serve(app: web.Application, host: str, port: int) -> None:
    runner = await start(app, host, port)
    print(f"serving on http://{host}:{port}", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
