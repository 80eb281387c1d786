"""Full-text search over a JSONL corpus with SQLite's FTS5: no server, no key, no dependency.

A corpus has one document a line: {"contents": text} with an optional "title". The index is a file beside the corpus (or
in the temporary directory where that can't be written), built once, shared by all processes, rebuilt when the corpus
changes. Ranking is FTS5's bm25. Words are what FTS5's `unicode61` tokenizer says; text without spaces, such as Chinese,
is not split.
"""

import asyncio
import contextlib
import glob
import hashlib
import json
import os
import re
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from arpo_tools.tool import ToolResult, ToolStatus

_WORD = re.compile(r"\w+")
_MOST_WORDS = 64
"""Words of a query that count; FTS5's time grows with the square of their number."""


class CorpusError(ValueError):
    """The corpus is missing or a line of it is not a document."""


def read_corpus(corpus: Path) -> Iterator[tuple[str, str]]:
    """Yield (title, contents) of each document; blank lines are skipped.

    Raises:
        CorpusError: the file is missing or empty, or a line is no document; the message names file and line.
    """
    if not corpus.is_file():
        raise CorpusError(f"search corpus {str(corpus)!r} is not a file: give the path of a JSONL file as `corpus`")
    count = 0
    with corpus.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                title, contents = _document(line)
            except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
                message = f'{corpus}:{number}: got {line[:80]!r}; expected {{"title": ..., "contents": ...}}: {error!r}'
                raise CorpusError(message) from error
            count += 1
            yield title, contents
    if count == 0:
        raise CorpusError(f"search corpus {str(corpus)!r} holds no document: add one JSON object a line")


def _document(line: bytes) -> tuple[str, str]:
    document = json.loads(line.decode())
    title, contents = str(document.get("title") or ""), document["contents"]
    if not isinstance(contents, str):
        raise TypeError(f"contents is {contents!r}")
    (title + contents).encode()  # SQLite takes no lone surrogates
    return title, contents


class LocalSearch:
    """A `Tool` that answers a query with the best passages of a corpus, one `Page i: text` a line."""

    def __init__(self, corpus: str | Path, top_k: int = 3, max_passage_chars: int = 1000, name: str = "search") -> None:
        """Open the index of `corpus`, building it first if need be.

        Raises:
            CorpusError: see `read_corpus`.
            ValueError: `top_k` or `max_passage_chars` is not positive.
        """
        if top_k < 1 or max_passage_chars < 1:
            raise ValueError(
                f"search tool: top_k={top_k}, max_passage_chars={max_passage_chars}; "
                f"expected positive numbers: raise them"
            )
        self.name = name
        self.top_k = top_k
        self.max_passage_chars = max_passage_chars
        self._connection = sqlite3.connect(_index_of(Path(corpus)), check_same_thread=False)
        self._lock = threading.Lock()  # one connection is not for two threads at a time

    async def run(self, text: str) -> ToolResult:
        """Search for any of the words of `text`."""
        words = list(dict.fromkeys(_WORD.findall(text)))[:_MOST_WORDS]
        if not words:
            return ToolResult("Error: the query has no words.", ToolStatus.MODEL_ERROR)
        try:
            passages = await asyncio.to_thread(self._best_passages, words)
        except sqlite3.Error as error:
            return ToolResult(f"Error: the search index failed: {error}", ToolStatus.INFRASTRUCTURE_ERROR)
        if not passages:
            return ToolResult(f"No results for: {text.strip()[:200]}", ToolStatus.EMPTY)
        return ToolResult("\n".join(f"Page {rank}: {passage}" for rank, passage in enumerate(passages, start=1)))

    def _best_passages(self, words: list[str]) -> list[str]:
        # Quoted, so that no word is taken for one of FTS5's operators.
        query = " OR ".join(f'"{word}"' for word in words)
        sql = "SELECT contents FROM documents WHERE documents MATCH ? ORDER BY rank, rowid LIMIT ?"
        with self._lock:
            rows = self._connection.execute(sql, (query, self.top_k)).fetchall()
        return [contents[: self.max_passage_chars] for (contents,) in rows]


def _index_of(corpus: Path) -> Path:
    """Return the path of an index that is up to date with the corpus."""
    if not corpus.is_file():
        raise CorpusError(f"search corpus {str(corpus)!r} is not a file: give the path of a JSONL file as `corpus`")
    corpus = corpus.resolve()
    state = corpus.stat()
    version = hashlib.sha256(f"{corpus}:{state.st_size}:{state.st_mtime_ns}".encode()).hexdigest()[:16]
    for folder in (corpus.parent, Path(tempfile.gettempdir())):
        index = folder / f".{corpus.name}.{version}.fts5"
        if index.is_file():
            return index
        if os.access(folder, os.W_OK):
            _build_index(corpus, index)
            return index
    raise CorpusError(f"no place for the index of {str(corpus)!r}: make its folder or the temporary directory writable")


def _build_index(corpus: Path, index: Path) -> None:
    """Build beside the target and rename, so that other processes see the whole index or none."""
    handle, unfinished = tempfile.mkstemp(dir=index.parent, prefix=index.name)
    os.close(handle)
    try:
        with contextlib.closing(sqlite3.connect(unfinished)) as connection, connection:
            connection.execute("CREATE VIRTUAL TABLE documents USING fts5(title, contents)")
            connection.executemany("INSERT INTO documents VALUES (?, ?)", read_corpus(corpus))
        os.chmod(unfinished, 0o644)  # other users' runs may share the corpus
        os.replace(unfinished, index)
        for outdated in index.parent.glob(f".{glob.escape(corpus.name)}.*.fts5"):
            if outdated != index:
                outdated.unlink(missing_ok=True)
    finally:
        Path(unfinished).unlink(missing_ok=True)
