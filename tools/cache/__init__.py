"""A cache of search results and pages in one SQLite file, shared by all processes of a machine.

What is covered: no failure is stored, because callers store answers only; an answer without results is stored for a
short time; a killed writer loses no answer that `put` has acknowledged; a damaged file is set aside and a new one
begun; nothing that goes wrong here reaches the caller: the call goes through without the cache. What is not covered:
answers with results do not expire, and the file has no size limit.

`python -m arpo_tools.cache --help` is the command line.
"""

import asyncio
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from arpo_tools.passage import Passage, normalise_query
from arpo_tools.sqlite.file import ForeignFileError, Layout, SqliteFile, is_damage
from arpo_tools.sqlite.queue import SqliteQueue

logger = logging.getLogger(__name__)

ANY_PARAMETERS = "*"
"""Parameters of imported answers whose own are not known: they answer every request of their back-end."""

_LAYOUT = Layout(
    application_id=int.from_bytes(b"ARPC", "big"),
    schema="""
    CREATE TABLE IF NOT EXISTS answers (
        backend TEXT NOT NULL,
        query TEXT NOT NULL,
        parameters TEXT NOT NULL,
        passages TEXT NOT NULL,
        created REAL NOT NULL,
        PRIMARY KEY (query, backend, parameters)
    ) WITHOUT ROWID;
    """,
)
_MOST_FAILURES = 5
"""Failures in a row after which a process does without the cache: each may have cost `busy_seconds`."""


@dataclass(frozen=True)
class CacheKey:
    """The key of an answer: everything that it depends on."""

    backend: str
    query: str
    parameters: str

    @classmethod
    def of_query(cls, backend: str, query: str, parameters: Mapping[str, str]) -> "CacheKey":
        """Make the key of a search; queries that are the same for a search engine have one key."""
        return cls(backend, normalise_query(query), json.dumps(dict(parameters), sort_keys=True))


@dataclass(frozen=True)
class CacheEntry:
    """A stored answer. `created` is in seconds since 1970."""

    key: CacheKey
    passages: list[Passage]
    created: float


class SearchCache:
    """The cache as seen by one process; after a fork the child opens its own connection."""

    def __init__(self, path: str | Path, empty_seconds: float = 3600.0, is_read_only: bool = False) -> None:
        """Open the file, making it and its folder if need be. A file that can't be opened is logged, not raised.

        One that may only be read gives its answers and takes no new ones.

        Args:
            empty_seconds: how long an answer without results is believed.
            is_read_only: nothing is written, and a file that can't be opened is an error.

        Raises:
            ForeignFileError: the path is an SQLite file of another kind.
            OSError, sqlite3.Error: with `is_read_only`, the file can't be opened.
        """
        self.path = Path(path)
        self.empty_seconds = empty_seconds
        self._failures = 0
        self._asked_after = 0
        self._file: SqliteFile | None = None
        self._queue: SqliteQueue | None = None
        try:
            self._file = self._open(is_read_only)
            self._queue = SqliteQueue(self._file)
        except (OSError, sqlite3.Error) as error:
            if is_read_only:
                raise
            logger.error("search cache %s can't be opened (%s): every call goes to its service", self.path, error)

    def _open(self, is_read_only: bool) -> SqliteFile:
        """
        Raises:
            ForeignFileError, OSError, sqlite3.Error: the file can't be opened.
        """
        if is_read_only:
            return SqliteFile(self.path, _LAYOUT, is_read_only=True)
        try:
            return SqliteFile(self.path, _LAYOUT)
        except (OSError, sqlite3.OperationalError) as error:
            if not self.path.is_file():
                raise
            file = SqliteFile(self.path, _LAYOUT, is_read_only=True)
            logger.warning("search cache %s can only be read (%s): new answers are not kept", self.path, error)
            return file

    @property
    def is_on(self) -> bool:
        """Whether this process still uses the file."""
        return self._file is not None

    async def get(self, key: CacheKey) -> list[Passage] | None:
        """Return the stored answer, `[]` if it is that there are no results, or None if there is no answer."""
        sql = (
            "SELECT backend, query, parameters, passages, created FROM answers "
            "WHERE query = ? AND backend = ? AND parameters IN (?, ?) ORDER BY parameters = ?"
        )
        return await self._first(sql, (key.query, key.backend, key.parameters, ANY_PARAMETERS, ANY_PARAMETERS))

    async def find(self, query: str, backend: str | None = None) -> list[Passage] | None:
        """Return the newest answer to a query, whatever its back-end (unless named) and parameters."""
        sql = (
            "SELECT backend, query, parameters, passages, created FROM answers "
            "WHERE query = ? AND ? IN (backend, '') ORDER BY created DESC, backend, parameters"
        )
        return await self._first(sql, (normalise_query(query), backend or ""))

    async def _first(self, sql: str, arguments: tuple[str, ...]) -> list[Passage] | None:
        rows = await self._ask(lambda connection: connection.execute(sql, arguments).fetchall(), is_write=False)
        return next((entry.passages for entry in map(_entry, rows or []) if entry and self._is_valid(entry)), None)

    def _is_valid(self, entry: CacheEntry) -> bool:
        # An entry from the future was written before the clock was set back: its age is not known.
        return bool(entry.passages) or 0 <= time.time() - entry.created < self.empty_seconds

    async def put(self, key: CacheKey, passages: Sequence[Passage]) -> None:
        """Store an answer. When this returns, the answer survives the death of the process."""
        if self._file is None or self._file.is_read_only:
            return
        row = _row(CacheEntry(key, list(passages), time.time()))
        await self._ask(lambda connection: connection.execute(_INSERT, row), is_write=True)

    async def _ask(self, action: Callable[[sqlite3.Connection], Any], is_write: bool) -> Any:
        """Return what `action` returns, or None if anything goes wrong."""
        if self._queue is None:
            return None
        asked = self._asked_after
        try:
            result = await self._queue.call(action, is_write)
        except (OSError, sqlite3.Error, RuntimeError) as error:
            if asked == self._asked_after:  # of the calls under way at one failure the first is counted
                self._asked_after += 1
                await self._handle_failure(error)
            return None
        self._failures = 0
        return result

    def put_all(self, entries: Iterable[CacheEntry]) -> int:
        """Store many answers in one transaction and return their number. Blocks.

        Raises:
            OSError, sqlite3.Error: nothing was stored.
        """
        file = self.require_file()
        if file.is_read_only:
            raise PermissionError(f"{self.path} can only be read: make it and its folder writable")
        rows = [_row(entry) for entry in entries]

        def insert(connection: sqlite3.Connection) -> None:
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.executemany(_INSERT, rows)
            except BaseException:
                if connection.in_transaction:  # a full disk ends it by itself
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

        file.run(insert)
        return len(rows)

    def entries(self) -> Iterator[CacheEntry]:
        """Yield all answers, those that have expired too, ordered by query. Blocks."""
        last = ("", "", "")
        while True:
            rows = self.require_file().run(partial(_page_after, last))
            if not rows:
                return
            yield from filter(None, map(_entry, rows))
            backend, query, parameters = rows[-1][:3]
            last = (query, backend, parameters)

    def require_file(self) -> SqliteFile:
        """Return the file.

        Raises:
            OSError: it could not be opened.
        """
        if self._file is None:
            raise OSError(f"search cache {self.path} can't be opened: see the log for the reason")
        return self._file

    def close(self) -> None:
        """Close this process's connection; a later call opens it again."""
        if self._file is not None:
            self._file.close()

    async def _handle_failure(self, error: Exception) -> None:
        self._failures += 1
        if self._failures == 1:
            logger.error("search cache %s failed (%s): the call goes to its service", self.path, error)
        file = self._file
        if isinstance(error, sqlite3.Error) and is_damage(error) and file is not None:
            try:
                await asyncio.to_thread(file.reopen)
            except (OSError, sqlite3.Error, ForeignFileError) as reopening:
                logger.error("search cache %s can't be opened again: %s", self.path, reopening)
        if self._failures >= _MOST_FAILURES and self._file is not None:
            logger.error("search cache %s failed %d times in a row: off in this process", self.path, self._failures)
            self._file.close()
            self._file = self._queue = None


_INSERT = "INSERT OR REPLACE INTO answers (backend, query, parameters, passages, created) VALUES (?, ?, ?, ?, ?)"
_PAGE = (
    "SELECT backend, query, parameters, passages, created FROM answers "
    "WHERE (query, backend, parameters) > (?, ?, ?) ORDER BY query, backend, parameters LIMIT 500"
)


def _page_after(last: tuple[str, str, str], connection: sqlite3.Connection) -> list[tuple[str, str, str, str, float]]:
    return connection.execute(_PAGE, last).fetchall()


def _row(entry: CacheEntry) -> tuple[str, str, str, str, float]:
    key = entry.key
    return key.backend, key.query, key.parameters, passages_to_json(entry.passages), entry.created


def _entry(row: tuple[str, str, str, str, float]) -> CacheEntry | None:
    """Return the answer of a row, or None for one that can't be read."""
    backend, query, parameters, passages, created = row
    try:
        return CacheEntry(
            CacheKey(backend, query, parameters), passages_from_json(json.loads(passages)), float(created)
        )
    except (ValueError, TypeError, RecursionError):
        return None


def passages_to_json(passages: Iterable[Passage]) -> str:
    """Return passages as JSON, in ASCII because SQLite takes no lone surrogates; empty fields are left out."""
    # Not `dataclasses.asdict`, which takes longer than SQLite.
    return json.dumps(
        [{name: value for name, value in vars(one).items() if not _is_left_out(value)} for one in passages]
    )


def _is_left_out(value: object) -> bool:
    return value is None or value is False or value == ""


def passages_from_json(value: object) -> list[Passage]:
    """Return the passages of decoded JSON.

    Raises:
        ValueError, TypeError: it is not a list of passages.
    """
    if not isinstance(value, list):
        raise TypeError(f"expected a list of passages, got {type(value).__name__}")
    return [Passage(**{"snippet": "", **fields}) for fields in value]
