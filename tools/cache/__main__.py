"""The cache's command line: import the released project's file or an export, export to JSONL, statistics."""

import argparse
import json
import math
import re
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from arpo_tools.cache import ANY_PARAMETERS, CacheEntry, CacheKey, SearchCache, passages_from_json, passages_to_json
from arpo_tools.passage import Passage, normalise_query
from arpo_tools.redaction import redact

_PAGE = re.compile(r"^Page \d+: ", re.MULTILINE)
# What the released search tool stores for a failed search, beside a genuine lack of results.
_CACHED = ("retrieval_server", "brightdata", "serper", "tavily", "brave", "searxng")
"""The back-ends that look into a cache."""
_NEVER_CACHED = ("local", "replay")
_PAGE_BROWSER = "page"
"""The back-end name of pages, whose keys are addresses instead of queries."""
_NO_ANSWER = ("", "No search results found.", "None")


def read_entries(path: Path, backend: str) -> Iterator[CacheEntry | None]:
    """Yield the answers of a file, None for each entry without an answer.

    Args:
        path: the released project's JSON, {query: "Page 1: ...\\nPage 2: ..."}, or the JSONL of `export`.
        backend: of the released project's answers; those of an export name their own.

    Raises:
        ValueError: it is neither.
    """
    with path.open(encoding="utf-8") as file:
        if path.suffix == ".jsonl":
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _entry_of_export(line, f"{path}:{number}")
            return
        try:
            answers = json.load(file)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: expected a JSON object from query to text: {error}") from error
    if not isinstance(answers, dict):
        raise ValueError(f"{path}: got a {type(answers).__name__}; expected a JSON object from query to text")
    for query, text in answers.items():
        yield _entry_of_released_project(query, text, backend)


def _entry_of_released_project(query: str, text: object, backend: str) -> CacheEntry | None:
    if not isinstance(text, str) or text.strip() in _NO_ANSWER or not normalise_query(query):
        return None
    passages = [Passage(part.strip()) for part in _PAGE.split(text) if part.strip()]
    return CacheEntry(CacheKey(backend, normalise_query(query), ANY_PARAMETERS), passages, time.time())


def _entry_of_export(line: str, place: str) -> CacheEntry:
    try:
        fields = json.loads(line)
        backend, query, parameters = (_require_text(fields[name]) for name in ("backend", "query", "parameters"))
        passages, created = passages_from_json(fields["passages"]), float(fields["created"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{place}: got {line[:80]!r}; expected a line of `export`: {error!r}") from error
    if backend in _NEVER_CACHED:
        raise ValueError(
            f"{place}: the answers of {backend!r}, which looks into no cache, would be read by nothing; expected those "
            f"of {', '.join(_CACHED)} or an engine of your own: take the line out, or name the right back-end in it"
        )
    # An answer is found by the query as it is normalised now, whatever wrote the export.
    query = query if backend == _PAGE_BROWSER else normalise_query(query)
    if not query or not math.isfinite(created):
        raise ValueError(f"{place}: got {line[:80]!r}; expected a query, and a time in `created`: take the line out")
    return CacheEntry(CacheKey(backend, query, parameters), passages, created)


def _require_text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def write_entries(entries: Iterable[CacheEntry], path: Path | None) -> int:
    """Write answers as JSONL, to standard output without a path, and return their number."""
    count = 0
    with path.open("w", encoding="utf-8") if path else open(sys.stdout.fileno(), "w", closefd=False) as file:
        for entry in entries:
            fields = {
                "backend": entry.key.backend,
                "query": entry.key.query,
                "parameters": entry.key.parameters,
                "created": entry.created,
                "passages": json.loads(passages_to_json(entry.passages)),
            }
            file.write(json.dumps(fields) + "\n")
            count += 1
    return count


def statistics(cache: SearchCache) -> str:
    """Return answers by back-end, the empty ones among them, and the size of the file."""
    total: Counter[str] = Counter()
    empty: Counter[str] = Counter()
    for entry in cache.entries():
        total[entry.key.backend] += 1
        empty[entry.key.backend] += not entry.passages
    lines = [f"{backend}: {count} answers, {empty[backend]} of them empty" for backend, count in sorted(total.items())]
    return "\n".join([*lines, f"{cache.path}: {cache.path.stat().st_size / 1e6:.1f} MB"])


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        if options.command != "import" and not options.cache.is_file():
            raise ValueError(f"{options.cache} is not a file: give the cache's path as --cache")
        cache = SearchCache(options.cache, is_read_only=options.command != "import")
        if options.command == "import":
            entries = list(read_entries(options.file, options.backend))
            answers = [entry for entry in entries if entry is not None]
            print(f"{cache.put_all(answers)} answers imported, {len(entries) - len(answers)} without results left out")
        elif options.command == "export":
            print(f"{write_entries(cache.entries(), options.out)} answers exported", file=sys.stderr)
        else:
            print(statistics(cache))
    except (ValueError, OSError, sqlite3.Error) as error:
        print(f"error: {redact(str(error))}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m arpo_tools.cache", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    importing = commands.add_parser("import", help="add the answers of a file")
    importing.add_argument("file", type=Path, help="the released search_cache.json, or a .jsonl of `export`")
    importing.add_argument(
        "--backend", choices=_CACHED, default="brightdata", help="whose answers they are (default: %(default)s)"
    )
    exporting = commands.add_parser("export", help="write all answers as JSONL")
    exporting.add_argument("--out", type=Path, help="default: standard output")
    for command in (importing, exporting, commands.add_parser("stats", help="answers by back-end")):
        command.add_argument("--cache", type=Path, required=True, help="the cache's SQLite file")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
