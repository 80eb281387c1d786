"""256 HTTP tool calls in flight in one event loop: `python tests/benchmarks/http_tools.py`.

A server in a process of its own answers after 50 ms. The lag is how much later than asked a sleep of 5 ms ends: what
token generation of all leaves would feel. The loop is uvloop, as in Ray's actors, where that is installed. The aim is a
p99 under 60 ms. `busy` is the CPU time of the loop's thread during a sleep: its lag on a machine with a core to spare.
"""

import asyncio
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web
from rich.console import Console
from rich.table import Table

from arpo_tools import Tool, ToolStatus, open_search
from arpo_tools.page_browser import PageBrowser

try:
    import uvloop
except ImportError:
    uvloop = None

Call = Callable[[int], Awaitable[None]]

IN_FLIGHT, CALLS, DELAY_SECONDS, SLEEP_SECONDS = 256, 3_000, 0.05, 0.005
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


@dataclass
class Lags:
    """In ms, one of each for every sleep of the watcher."""

    late: list[float] = field(default_factory=list)
    """How much later than asked the sleep ended."""
    busy: list[float] = field(default_factory=list)
    """CPU time of the loop's thread meanwhile: the part of it that other programs on the machine have no share in."""

    async def watch(self) -> None:
        while True:
            start, busy = time.perf_counter(), time.thread_time()
            await asyncio.sleep(SLEEP_SECONDS)
            self.late.append((time.perf_counter() - start - SLEEP_SECONDS) * 1e3)
            self.busy.append((time.thread_time() - busy) * 1e3)

    def clear(self) -> None:
        self.late.clear()
        self.busy.clear()


async def measure(call: Call, calls: int) -> tuple[float, Lags]:
    """Return calls a second and the lags."""
    numbers = iter(range(calls + IN_FLIGHT))

    async def caller() -> None:
        for number in numbers:
            if number == IN_FLIGHT:  # all connections are open
                lags.clear()
                started.append(time.perf_counter())
            await call(number)

    lags = Lags()
    started: list[float] = []
    watcher = asyncio.create_task(lags.watch())
    await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))
    watcher.cancel()
    return calls / (time.perf_counter() - started[0]), lags


async def tool_call(tool: Tool, text: str) -> None:
    result = await tool.run(text)
    assert result.status is ToolStatus.OK, result


async def bare_calls(url: str) -> tuple[float, Lags]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=IN_FLIGHT)) as session:

        async def call(number: int) -> None:
            async with session.post(f"{url}/search", json={"q": f"query {number}"}) as response:
                await response.json()

        return await measure(call, CALLS)


async def idle() -> tuple[float, Lags]:
    lags = Lags()
    watcher = asyncio.create_task(lags.watch())
    await asyncio.sleep(3.0)
    watcher.cancel()
    return 0.0, lags


def rows(url: str, folder: str) -> Iterator[tuple[str, Callable[[], Coroutine[Any, Any, tuple[float, Lags]]]]]:
    patience = {"base_url": url, "attempt_seconds": 60.0, "total_seconds": 120.0}
    plain = open_search("serper", cache=None, **patience)
    cached = open_search("serper", cache=f"{folder}/1.sqlite", **patience)
    limits = {"max_paid_calls": 10**6, "limits_file": f"{folder}/limits.sqlite"}
    limited = open_search("serper", cache=f"{folder}/2.sqlite", **limits, **patience)
    browser = PageBrowser(allowed_networks=["127.0.0.1/32"], fetch_seconds=60, read_seconds=60)
    yield "nothing: the machine's own lag", idle
    yield "aiohttp alone", lambda: bare_calls(url)
    yield "search", lambda: measure(lambda number: tool_call(plain, f"query {number}"), CALLS)
    yield "search, cache written", lambda: measure(lambda number: tool_call(cached, f"query {number}"), CALLS)
    yield "search, cache read", lambda: measure(lambda number: tool_call(cached, f"query {number}"), CALLS)
    yield (
        "search, paid calls counted",
        lambda: measure(lambda number: tool_call(limited, f"query {number}"), CALLS // 3),
    )
    yield "page browser", lambda: measure(lambda number: tool_call(browser, f"{url}/{number}"), CALLS // 3)


def main() -> None:
    context = multiprocessing.get_context("spawn")
    ports: multiprocessing.Queue[int] = context.Queue()
    server = context.Process(target=serve, args=(ports,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{ports.get()}"
    os.environ["SERPER_API_KEY"] = "benchmark"
    loop = "uvloop" if uvloop else "asyncio"
    table = Table(
        "", "calls/s", "lag p50 ms", "p99", "max", "busy p99 ms", title=f"{IN_FLIGHT} calls in flight, {loop}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, run in rows(url, folder):
            rate, lags = (uvloop or asyncio).run(run())
            late, busy = (statistics.quantiles(values, n=100, method="inclusive") for values in (lags.late, lags.busy))
            figures = (late[49], late[98], max(lags.late), busy[98])
            table.add_row(name, f"{rate:.0f}", *(f"{figure:.1f}" for figure in figures))
    server.terminate()
    Console().print(table)


if __name__ == "__main__":
    main()
