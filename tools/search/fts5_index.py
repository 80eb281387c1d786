"""The engine without a dependency: SQLite's FTS5, asked only for words that are rare enough to rank fast.

FTS5 scores every document that holds any of the words, so a query with a common word costs tens of milliseconds in
100 000 passages. The rarest words are used first, until `_MOST_MATCHES` documents would be scored.
"""

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from arpo_tools.search.corpus import read_corpus
from arpo_tools.search.index import Hit, as_index_error, documents_of, open_passages
from arpo_tools.search.words import words_of_passage

_MOST_MATCHES = 2_000
"""Documents scored for one query, about 1 µs each; the rarest word is always used."""


def build(corpus: Path, index: Path) -> None:
    """Write the index's one file."""
    with contextlib.closing(sqlite3.connect(index)) as connection, connection:
        connection.execute("CREATE TABLE documents (id TEXT, title TEXT, contents TEXT, url TEXT)")
        # `ascii` takes every other character for a letter: the words are split and folded already.
        connection.execute("CREATE VIRTUAL TABLE texts USING fts5(words, content='', tokenize='ascii')")
        connection.executemany("INSERT INTO texts (rowid, words) VALUES (?, ?)", _rows(corpus, connection))
        connection.execute("CREATE VIRTUAL TABLE vocabulary USING fts5vocab(texts, row)")
        connection.execute("CREATE TABLE words (word TEXT PRIMARY KEY, documents INTEGER) WITHOUT ROWID")
        connection.execute("INSERT INTO words SELECT term, doc FROM vocabulary")


def _rows(corpus: Path, connection: sqlite3.Connection) -> Iterator[tuple[int, str]]:
    insert = "INSERT INTO documents VALUES (?, ?, ?, ?)"
    for document in read_corpus(corpus):
        fields = (document.id, document.title, document.contents, document.url)
        row = connection.execute(insert, fields).lastrowid
        assert row is not None  # it is of a statement that is no INSERT
        yield row, " ".join(words_of_passage(f"{document.title} {document.contents}"))


class Fts5Index:
    """An `Index` over one SQLite file."""

    def __init__(self, path: Path) -> None:
        self._connection = open_passages(path)
        self._lock = threading.Lock()  # one connection is not for two threads at a time

    def search(self, words: list[str], top_k: int) -> list[Hit]:
        with as_index_error(), self._lock:
            words = self._rare(words)
            if not words:
                return []
            # Quoted, so that no word is taken for one of FTS5's operators.
            query = " OR ".join(f'"{word}"' for word in words)
            sql = "SELECT rowid, -rank FROM texts WHERE texts MATCH ? ORDER BY rank, rowid LIMIT ?"
            rows = self._connection.execute(sql, (query, top_k)).fetchall()
            documents = documents_of(self._connection, [row for row, _ in rows])
        return [Hit(documents[row], score) for row, score in rows]

    def _rare(self, words: list[str]) -> list[str]:
        """Return the words that the corpus has, rarest first, as many as may be scored."""
        sql = f"SELECT documents, word FROM words WHERE word IN ({','.join('?' * len(words))}) ORDER BY documents, word"
        rare: list[str] = []
        total = 0
        for documents, word in self._connection.execute(sql, words):
            total += documents
            if rare and total > _MOST_MATCHES:
                break
            rare.append(word)
        return rare
