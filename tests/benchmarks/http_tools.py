"""256 HTTP tool calls in flight in one event loop: `python tests/benchmarks/http_tools.py`.

A server in a process of its own answers after 50 ms. The lag is how much later than asked a sleep of 5 ms ends: what
token generation of all leaves would feel. The aim is a p99 under 60 ms.
"""

import asyncio
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable

from aiohttp import web
from rich.console import Console
from rich.table import Table

from arpo_tools import ToolResult, ToolStatus, open_search
from arpo_tools.page_browser import PageBrowser

IN_FLIGHT, CALLS, DELAY_SECONDS = 256, 3_000, 0.05
RESULTS = [{"title": f"t{n}", "link": f"https://x.org/{n}", "snippet": "word " * 40} for n in range(10)]
SEARCH = json.dumps({"organic": RESULTS})
PAGE = "<html><head><title>t</title></head><body><main>" + "<p>some words of a page</p>" * 400 + "</main></body></html>"


def serve(port: "multiprocessing.Queue[int]") -> None:
    async def search(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(DELAY_SECONDS)
        return web.Response(text=SEARCH, content_type="application/json")

    async def page(request: web.Request) -> web.Response:
        await asyncio.sleep(DELAY_SECONDS)
        return web.Response(text=PAGE, content_type="text/html")

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/search", search)
        app.router.add_get("/{path:.*}", page)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        port.put(runner.addresses[0][1])
        await asyncio.sleep(3600)

    asyncio.run(main())


async def watch(lags: list[float]) -> None:
    while True:
        start = time.perf_counter()
        await asyncio.sleep(0.005)
        lags.append((time.perf_counter() - start - 0.005) * 1e3)


async def measure(call: Callable[[int], Awaitable[ToolResult]], calls: int) -> tuple[float, list[float]]:
    """Return calls a second and the lags in ms."""
    for number in range(IN_FLIGHT, 0, -64):  # connections and workers are open before the clock starts
        await asyncio.gather(*(call(-number - extra) for extra in range(64)))
    gate = asyncio.Semaphore(IN_FLIGHT)

    async def one(number: int) -> ToolStatus:
        async with gate:
            return (await call(number)).status

    lags: list[float] = []
    watcher = asyncio.create_task(watch(lags))
    start = time.perf_counter()
    statuses = await asyncio.gather(*map(one, range(calls)))
    seconds = time.perf_counter() - start
    watcher.cancel()
    assert set(statuses) == {ToolStatus.OK}, set(statuses)
    return calls / seconds, lags


def main() -> None:
    context = multiprocessing.get_context("spawn")
    ports: multiprocessing.Queue[int] = context.Queue()
    server = context.Process(target=serve, args=(ports,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{ports.get()}"
    os.environ["SERPER_API_KEY"] = "benchmark"
    table = Table("tool", "calls/s", "lag p50 ms", "lag p99 ms", "lag max ms", title=f"{IN_FLIGHT} calls in flight")
    with tempfile.TemporaryDirectory() as folder:
        patience = {"attempt_seconds": 60.0, "total_seconds": 120.0}
        plain = open_search("serper", base_url=url, cache=None, **patience)
        cached = open_search("serper", base_url=url, cache=f"{folder}/cache.sqlite", **patience)
        limited = open_search(
            "serper",
            base_url=url,
            cache=f"{folder}/2.sqlite",
            max_paid_calls=10**6,
            limits_file=f"{folder}/l",
            **patience,
        )
        browser = PageBrowser(allowed_networks=["127.0.0.1/32"], fetch_seconds=60, read_seconds=60)
        rows: list[tuple[str, Callable[[int], Awaitable[ToolResult]], int]] = [
            ("search", lambda number: plain.run(f"query {number}"), CALLS),
            ("search, cache filled", lambda number: cached.run(f"query {number}"), CALLS),
            ("search, cache read", lambda number: cached.run(f"query {number % 1000}"), CALLS),
            ("search, cache, paid calls counted", lambda number: limited.run(f"query {number}"), CALLS // 3),
            ("page browser", lambda number: browser.run(f"{url}/{number}"), CALLS // 3),
        ]
        for name, call, calls in rows:
            rate, lags = asyncio.run(measure(call, calls))
            percentiles = statistics.quantiles(lags, n=100)
            table.add_row(name, f"{rate:.0f}", f"{percentiles[49]:.1f}", f"{percentiles[98]:.1f}", f"{max(lags):.1f}")
    server.terminate()
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
