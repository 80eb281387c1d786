"""The interface of an index over a corpus, whichever engine has built it, and the SQLite file of its passages."""

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from arpo_tools.search.corpus import Document


@dataclass(frozen=True)
class Hit:
    """A document that matches, with its BM25 score, higher is better."""

    document: Document
    score: float


class DamagedIndexError(Exception):
    """The index can't answer: its files are damaged or gone."""


class Index(Protocol):
    """An open index. One call at a time per thread; several threads may call."""

    def search(self, words: list[str], top_k: int) -> list[Hit]:
        """Return the best documents that hold any of the words, best first, the earlier line first among equals.

        Raises:
            DamagedIndexError: the files are damaged or gone.
        """
        ...


def open_passages(path: Path) -> sqlite3.Connection:
    """Open an index's SQLite file for reading by several threads.

    `immutable`: nobody writes to a finished index, so no lock is needed and the folder may be read-only.
    """
    return sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True, check_same_thread=False)


def documents_of(connection: sqlite3.Connection, rows: list[int]) -> dict[int, Document]:
    """Return the documents with these row numbers, by row number."""
    sql = f"SELECT rowid, id, title, contents, url FROM documents WHERE rowid IN ({','.join('?' * len(rows))})"
    return {row: Document(*fields) for row, *fields in connection.execute(sql, rows)}


@contextlib.contextmanager
def as_index_error() -> Iterator[None]:
    """Turn what damaged files raise into `DamagedIndexError`."""
    try:
        yield
    except (sqlite3.Error, OSError, EOFError, ValueError, KeyError) as error:
        raise DamagedIndexError(f"the search index failed: {error}: delete it and it is built anew") from error
