"""The back-end `replay`: answers from a cache file only, without network or key."""

import sqlite3
from pathlib import Path

from arpo_tools.cache import SearchCache
from arpo_tools.passage import Passage
from arpo_tools.search.backend import SearchError
from arpo_tools.tool import ToolStatus


class ReplayBackend:
    """A `SearchBackend` that gives the newest stored answer to a query, whatever parameters it was asked with."""

    name = "replay"
    default_top_k = 10

    def __init__(self, cache: str | Path, of: str | None = None) -> None:
        """Open the file for reading; nothing is written into it.

        Args:
            of: replay this back-end's answers only.

        Raises:
            ValueError: there is no such file, or it is not a cache.
        """
        if not Path(cache).is_file():
            raise ValueError(f"replay: cache={str(cache)!r} is not a file: give the path of a search cache")
        self.parameters: dict[str, str] = {}
        self._of = of
        # Whatever its age: an answer without results is replayed as such.
        try:
            self._cache = SearchCache(cache, empty_seconds=float("inf"), is_read_only=True)
        except (OSError, sqlite3.Error) as error:
            raise ValueError(f"replay: cache={str(cache)!r} can't be read: {error}") from error

    async def search(self, query: str, top_k: int) -> list[Passage]:
        passages = await self._cache.find(query, self._of)
        if passages is None:
            raise SearchError("replay: the query is not in the cache.", ToolStatus.INFRASTRUCTURE_ERROR)
        return passages[:top_k]
