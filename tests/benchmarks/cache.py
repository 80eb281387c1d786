"""The search cache under eight processes: `python tests/benchmarks/cache.py`.

Each process has 16 searches in flight, which store answers of 3 KB and ask for one that another process may have
stored, by the calls that the search tool makes. The aim is at least 8 000 pairs of set and get a second altogether.
"""

import asyncio
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from arpo_tools.cache import CacheKey, SearchCache
from arpo_tools.passage import Passage

PROCESSES, SECONDS, IN_FLIGHT = 8, 6.0, 16
PASSAGES = [Passage("x" * 280, f"title {number}", f"https://example.org/{number}") for number in range(9)]


async def write_and_read(cache: SearchCache, process: int, until: float, taken: list[float]) -> None:
    draw = random.Random(process * 1000 + len(taken))
    while time.monotonic() < until:
        start = time.perf_counter()
        await cache.put(
            CacheKey.of_query("serper", f"query {process} {draw.randrange(10_000)}", {"top_k": "10"}), PASSAGES
        )
        await cache.get(
            CacheKey.of_query("serper", f"query {draw.randrange(8)} {draw.randrange(10_000)}", {"top_k": "10"})
        )
        taken.append((time.perf_counter() - start) * 1e3)


def work(path: str, process: int, begin: float, results: "multiprocessing.Queue[list[float]]") -> None:
    cache = SearchCache(path)
    taken: list[float] = []

    async def main() -> None:
        await asyncio.sleep(max(0.0, begin - time.monotonic()))
        until = time.monotonic() + SECONDS
        await asyncio.gather(*(write_and_read(cache, process, until, taken) for _ in range(IN_FLIGHT)))

    asyncio.run(main())
    results.put(taken)


def main() -> None:
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "cache.sqlite")
        results: multiprocessing.Queue[list[float]] = context.Queue()
        begin = time.monotonic() + 5.0
        workers = [context.Process(target=work, args=(path, number, begin, results)) for number in range(PROCESSES)]
        for worker in workers:
            worker.start()
        taken = [time_taken for _ in workers for time_taken in results.get()]
        for worker in workers:
            worker.join()
        size = Path(path).stat().st_size / 1e6
        start = time.perf_counter()
        SearchCache(path)
        opened = time.perf_counter() - start
    table = Table(
        "pairs/s", "p50 ms", "p99 ms", "max ms", "file MB", "open and check s", title=f"{PROCESSES} processes"
    )
    percentiles = statistics.quantiles(taken, n=100)
    table.add_row(
        f"{len(taken) / SECONDS:.0f}",
        *(f"{value:.2f}" for value in (percentiles[49], percentiles[98], max(taken), size, opened)),
    )
    Console().print(table)


if __name__ == "__main__":
    main()
