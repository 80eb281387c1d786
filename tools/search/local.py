"""The back-end `local`: BM25 over a JSONL corpus on this machine."""

import asyncio
from pathlib import Path

from arpo_tools.passage import Passage
from arpo_tools.search.backend import SearchError
from arpo_tools.search.index import DamagedIndexError, Hit
from arpo_tools.search.open_index import open_index
from arpo_tools.search.words import words_of_query
from arpo_tools.tool import ToolStatus

_MOST_WORDS = 64
"""Different words of a query that count; FTS5's time grows with the square of their number."""


class LocalBackend:
    """A `SearchBackend` over the index of one corpus."""

    default_top_k = 3

    def __init__(self, corpus: str | Path, engine: str = "auto") -> None:
        """Open the index, building it first if need be.

        Raises:
            CorpusError, ValueError, DamagedIndexError: see `open_index`.
        """
        self.name = "local"
        self.parameters = {"corpus": str(corpus)}
        self._index = open_index(corpus, engine)

    async def search(self, query: str, top_k: int) -> list[Passage]:
        return [
            Passage(hit.document.contents, hit.document.title, hit.document.url, None, hit.score, is_document=True)
            for hit in await self.hits(query, top_k)
        ]

    async def hits(self, query: str, top_k: int) -> list[Hit]:
        """Return the documents that hold any word of the query, best first.

        Raises:
            SearchError: the query has no words, or the index failed.
        """
        words = words_of_query(query, _MOST_WORDS)
        if not words:
            raise SearchError("the query has no words.", ToolStatus.MODEL_ERROR)
        try:
            return await asyncio.to_thread(self._index.search, words, top_k)
        except DamagedIndexError as error:
            raise SearchError(str(error), ToolStatus.INFRASTRUCTURE_ERROR) from error
