"""Reads a search corpus: JSONL, one {"contents": text} with an optional "title", "id" and "url" a line."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


class CorpusError(ValueError):
    """The corpus is missing or a line of it is not a document."""


@dataclass(frozen=True)
class Document:
    """One line of a corpus."""

    id: str
    title: str
    contents: str
    url: str


def require_corpus(corpus: Path) -> Path:
    """Return the corpus's path without links.

    Raises:
        CorpusError: it is not a file.
    """
    if not corpus.is_file():
        raise CorpusError(f"search corpus {str(corpus)!r} is not a file: give the path of a JSONL file as `corpus`")
    return corpus.resolve()


def read_corpus(corpus: Path) -> Iterator[Document]:
    """Yield the documents; blank lines are skipped.

    Raises:
        CorpusError: the file is missing or empty, or a line is not a document; the message names file and line.
    """
    require_corpus(corpus)
    count = 0
    with corpus.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                document = _document(line, number)
            except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
                message = f'{corpus}:{number}: got {line[:80]!r}; expected {{"title": ..., "contents": ...}}: {error!r}'
                raise CorpusError(message) from error
            count += 1
            yield document
    if count == 0:
        raise CorpusError(f"search corpus {str(corpus)!r} holds no document: add one JSON object a line")


def _document(line: bytes, number: int) -> Document:
    entry = json.loads(line.decode())
    contents = entry["contents"]
    if not isinstance(contents, str):
        raise TypeError(f"contents is {contents!r}")
    identity = str(number - 1 if entry.get("id") is None else entry["id"])
    document = Document(identity, str(entry.get("title") or ""), contents, str(entry.get("url") or ""))
    (document.id + document.title + contents + document.url).encode()  # SQLite takes no lone surrogates
    return document
