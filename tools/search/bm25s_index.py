"""The engine of the extra `search`: bm25s, whose arrays are memory-mapped and so shared between processes.

Building holds all words of the corpus in memory, about 3 KB a passage: for millions of passages use a retrieval server.
"""

import contextlib
import logging
import sqlite3
import threading
from pathlib import Path
from typing import Any

import bm25s
import numpy as np

from arpo_tools.search.corpus import read_corpus
from arpo_tools.search.index import Hit, as_index_error, documents_of, open_passages
from arpo_tools.search.words import words_of_passage

logging.getLogger("bm25s").setLevel(logging.WARNING)  # bm25s sets DEBUG when it is imported

_PASSAGES = "passages.sqlite"


def build(corpus: Path, index: Path) -> None:
    """Write the index's folder: bm25s's arrays, and an SQLite file with words and passages."""
    index.mkdir()
    vocabulary: dict[str, int] = {}
    ids: list[list[int]] = []
    with contextlib.closing(sqlite3.connect(index / _PASSAGES)) as connection, connection:
        connection.execute("CREATE TABLE documents (id TEXT, title TEXT, contents TEXT, url TEXT)")
        connection.execute("CREATE TABLE words (word TEXT PRIMARY KEY, number INTEGER) WITHOUT ROWID")
        for document in read_corpus(corpus):
            fields = (document.id, document.title, document.contents, document.url)
            connection.execute("INSERT INTO documents VALUES (?, ?, ?, ?)", fields)
            words = words_of_passage(f"{document.title} {document.contents}")
            ids.append([vocabulary.setdefault(word, len(vocabulary)) for word in words])
        connection.executemany("INSERT INTO words VALUES (?, ?)", vocabulary.items())
    vocabulary.setdefault("", len(vocabulary))  # bm25s needs a word even where no passage has any
    model = bm25s.BM25(backend="numpy")
    model.index(bm25s.tokenization.Tokenized(ids=ids, vocab=vocabulary), show_progress=False)
    # The words are in SQLite, where processes share them; bm25s would keep a dictionary in each.
    model.vocab_dict = {}
    model.save(index, show_progress=False)


class Bm25sIndex:
    """An `Index` over a folder."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            DamagedIndexError: the files are damaged or gone.
        """
        with as_index_error():
            self._model = bm25s.BM25.load(path, mmap=True, load_vocab=False, show_progress=False)
            self._connection = open_passages(path / _PASSAGES)
        self._lock = threading.Lock()  # one connection is not for two threads at a time

    def search(self, words: list[str], top_k: int) -> list[Hit]:
        with as_index_error():
            numbers = self._numbers(words)
            if not numbers:
                return []  # bm25s would return arbitrary passages with the score 0
            scores = self._model.get_scores_from_ids(numbers)
            best = _best(scores, top_k)
            with self._lock:
                documents = documents_of(self._connection, [row + 1 for row in best])
            return [Hit(documents[row + 1], float(scores[row])) for row in best]

    def _numbers(self, words: list[str]) -> list[int]:
        sql = f"SELECT number FROM words WHERE word IN ({','.join('?' * len(words))})"
        with self._lock:
            return [number for (number,) in self._connection.execute(sql, words)]


def _best(scores: "np.ndarray[Any, Any]", top_k: int) -> list[int]:
    """Return the positions of the best positive scores, best first, the earlier position first among equals."""
    found = np.flatnonzero(scores > 0)
    if len(found) > top_k:
        least = np.partition(scores[found], len(found) - top_k)[len(found) - top_k]
        found = found[scores[found] >= least]
    order = np.lexsort((found, -scores[found]))
    return [int(row) for row in found[order][:top_k]]
