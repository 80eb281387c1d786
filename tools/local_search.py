"""Full-text search over a JSONL corpus: no server, no key.

A corpus has one document a line: {"contents": text} with an optional "title". Ranking is BM25; `search/open_index.py`
says by which engine, and `search/words.py` what a word is.
"""

from pathlib import Path

from arpo_tools.search.corpus import CorpusError
from arpo_tools.search.local import LocalBackend
from arpo_tools.search.tool import BackendSearch, Display
from arpo_tools.tool import ToolResult

__all__ = ["CorpusError", "LocalSearch"]


class LocalSearch:
    """A `Tool` that answers a query with the best passages of a corpus, one `Page i: (Title: ...) text` a line.

    A title is left out where the passage begins with it.
    """

    def __init__(
        self,
        corpus: str | Path,
        top_k: int = 3,
        max_passage_chars: int = 1000,
        name: str = "search",
        engine: str = "auto",
    ) -> None:
        """Open the index of `corpus`, building it first if need be.

        Raises:
            CorpusError: see `read_corpus`.
            ValueError: `top_k` or `max_passage_chars` is not positive, or the engine can't be had.
        """
        self.name = name
        display = Display(max_passage_chars)
        self._tool = BackendSearch(LocalBackend(corpus, engine), name, top_k, display)

    async def run(self, text: str) -> ToolResult:
        """Search for any of the words of `text`."""
        return await self._tool.run(text)
