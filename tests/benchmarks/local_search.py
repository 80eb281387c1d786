"""Local search over 100 000 generated passages: `python tests/benchmarks/local_search.py`.

Words follow Zipf's law over 60 000, so queries hold very common ones. Each query is three words of one passage and two
common ones. The aim is a p50 under 2 ms, the event loop's share included, for either engine.
"""

import asyncio
import json
import random
import statistics
import tempfile
import time
from itertools import accumulate
from pathlib import Path

from rich.console import Console
from rich.table import Table

from arpo_tools.search import open_search
from arpo_tools.search.open_index import is_bm25s_installed

PASSAGES, VOCABULARY, QUERIES = 100_000, 60_000, 400


def make_corpus(corpus: Path, draw: random.Random) -> list[str]:
    """Write the corpus and return the queries."""
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(3, 9))) for _ in range(VOCABULARY)]
    weights = list(accumulate(1 / rank for rank in range(1, VOCABULARY + 1)))
    asked = set(draw.sample(range(PASSAGES), QUERIES))
    queries = []
    with corpus.open("w") as file:
        for number in range(PASSAGES):
            contents = draw.choices(words, cum_weights=weights, k=draw.randint(40, 90))
            file.write(json.dumps({"title": f"t{number}", "contents": " ".join(contents)}) + "\n")
            if number in asked:
                queries.append(" ".join(draw.sample(contents, 3) + draw.choices(words[:50], k=2)))
    return queries


async def times(corpus: Path, engine: str, queries: list[str]) -> tuple[float, list[float]]:
    start = time.perf_counter()
    tool = open_search("local", corpus=corpus, engine=engine, top_k=10)
    built = time.perf_counter() - start
    await tool.run(queries[0])  # the first query opens files
    taken = []
    for query in queries:
        start = time.perf_counter()
        await tool.run(query)
        taken.append((time.perf_counter() - start) * 1e3)
    return built, taken


def main() -> None:
    table = Table("engine", "build s", "p50 ms", "p90 ms", "max ms", title=f"{PASSAGES} passages, top 10")
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "corpus.jsonl")
        queries = make_corpus(corpus, random.Random(0))
        for engine in ("bm25s", "fts5") if is_bm25s_installed() else ("fts5",):
            built, taken = asyncio.run(times(corpus, engine, queries))
            p90 = statistics.quantiles(taken, n=10)[-1]
            row = (built, statistics.median(taken), p90, max(taken))
            table.add_row(engine, *(f"{value:.2f}" for value in row))
    Console().print(table)


if __name__ == "__main__":
    main()
