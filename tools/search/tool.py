"""The search tool: a query through the cache and a back-end to the text that the model reads."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from arpo_tools.cache import CacheKey, SearchCache
from arpo_tools.http.service import ServiceError
from arpo_tools.loop_local import LoopLocal
from arpo_tools.passage import Passage, clean_query
from arpo_tools.redaction import log_failure
from arpo_tools.search.backend import SearchBackend
from arpo_tools.tool import ToolResult, ToolStatus

logger = logging.getLogger(__name__)

_MOST_QUERY_CHARS = 1000
"""More than any search engine reads; what follows is cut."""
_MOST_TITLE_CHARS = 200


@dataclass(frozen=True)
class Display:
    """The form in which passages are shown to the model."""

    max_passage_chars: int = 1000
    show_urls: bool = False
    """Title and address before each passage: needed by a model that also has a page browser."""

    def __post_init__(self) -> None:
        if self.max_passage_chars < 1:
            raise ValueError(
                f"search tool: max_passage_chars={self.max_passage_chars}; expected positive numbers: raise it"
            )

    def text_of(self, passages: Sequence[Passage]) -> str:
        """Return one `Page i: ...` a passage, the format of the released ARPO code; a document's title comes first."""
        text = "\n".join(f"Page {rank}: {self._line(passage)}" for rank, passage in enumerate(passages, start=1))
        return text.encode("utf-8", "replace").decode()  # JSON can bring lone surrogates, which no tokenizer takes

    def _line(self, passage: Passage) -> str:
        shown = passage.snippet[: self.max_passage_chars]
        title = " ".join(passage.title.split())[:_MOST_TITLE_CHARS]
        if self.show_urls:
            return f"{title} ({passage.url[:500]})\n{shown}"
        if passage.is_document and title and not _begins_with(passage.snippet, title):
            return f"(Title: {title}) {shown}"  # as Search-R1 and verl write it
        return shown


def _begins_with(snippet: str, title: str) -> bool:
    """Tell whether a passage names its title itself, as in `Paris is the capital` and `"Paris"` on a line before it."""
    beginning = " ".join(snippet[: 2 * _MOST_TITLE_CHARS].split()).lstrip("\"'“«").casefold()
    rest = beginning.removeprefix(title.casefold())
    return len(rest) < len(beginning) and not rest[:1].isalnum()


class BackendSearch:
    """A `Tool` over one back-end. Equal queries at the same time share one call where there is a cache."""

    def __init__(
        self,
        backend: SearchBackend,
        name: str = "search",
        top_k: int | None = None,
        display: Display | None = None,
        cache: SearchCache | None = None,
    ) -> None:
        """
        Args:
            top_k: passages of an answer; by default the back-end's default number.

        Raises:
            ValueError: `top_k` is not positive.
        """
        if top_k is not None and top_k < 1:
            raise ValueError(f"search tool: top_k={top_k}; expected positive numbers: raise it")
        self.name = name
        self.backend = backend
        self.top_k = top_k or backend.default_top_k
        self.display = display or Display()
        self.cache = cache
        self._under_way: LoopLocal[dict[CacheKey, asyncio.Event]] = LoopLocal(dict)

    async def run(self, text: str) -> ToolResult:
        """Search for `text`. Never raises but for cancellation."""
        query = clean_query(text, _MOST_QUERY_CHARS)
        if not query:
            return ToolResult("Error: the query has no words.", ToolStatus.MODEL_ERROR)
        try:
            passages, is_cached = await self._passages(query)
        except ServiceError as error:
            return ToolResult(f"Error: {error}", error.status)
        except Exception as error:
            # At the tool's boundary: whatever a server makes a parser raise must not reach the rollout.
            log_failure(logger, f"search back-end {self.backend.name!r} failed")
            return ToolResult(f"Error: the search failed: {type(error).__name__}", ToolStatus.INFRASTRUCTURE_ERROR)
        if not passages:
            return ToolResult(f"No results for: {query[:200]}", ToolStatus.EMPTY, is_cached)
        return ToolResult(self.display.text_of(passages), is_cached=is_cached)

    async def _passages(self, query: str) -> tuple[Sequence[Passage], bool | None]:
        """Return what was found, and whether it was in the cache; None without one."""
        if self.cache is None:
            return await self.backend.search(query, self.top_k), None
        key = CacheKey.of_query(self.backend.name, query, {**self.backend.parameters, "top_k": str(self.top_k)})
        cached = await self.cache.get(key)
        if cached is not None:
            return cached, True
        under_way = await self._under_way.get()
        if key in under_way:
            # Leaves of one prompt often ask the same thing at the same time. After a failure each asks by itself.
            await under_way[key].wait()
            cached = await self.cache.get(key)
            return (await self._fetch(key, query), False) if cached is None else (cached, True)
        under_way[key] = asyncio.Event()
        try:
            return await self._fetch(key, query), False
        finally:
            under_way.pop(key).set()

    async def _fetch(self, key: CacheKey, query: str) -> list[Passage]:
        passages = await self.backend.search(query, self.top_k)
        if self.cache is not None:
            await self.cache.put(key, passages)
        return passages
