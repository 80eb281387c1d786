"""The page browser: returns the text of the page at an address, HTML or PDF.

What is covered: only http and https; only public addresses, checked where the connection is made and for each redirect
(`pages/address_guard.py`); limits on time, bytes and types (`pages/fetch.py`); documents are read in processes that are
killed when they take too long (`pages/worker_pool.py`). What is not covered: pages that need JavaScript, a login or a
proxy; what a page says is for the model to believe or not.
"""

import asyncio
import importlib.util
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from arpo_tools.cache import CacheKey, SearchCache
from arpo_tools.http.service import ServiceError
from arpo_tools.pages.address import parse_page_query
from arpo_tools.pages.address_guard import AddressGuard
from arpo_tools.pages.fetch import FetchLimits, Page, PageError, PageFetcher, checked_url
from arpo_tools.pages.summary import Summarizer, SummaryOptions
from arpo_tools.pages.worker_pool import PageText, PageWorkerError, WorkerPool
from arpo_tools.passage import Passage
from arpo_tools.redaction import log_failure, redact
from arpo_tools.tool import ToolResult, ToolStatus

logger = logging.getLogger(__name__)

_MOST_CHARS = 200_000
"""Characters of a page that are kept and cached."""


@dataclass(frozen=True)
class BrowserOptions:
    """The browser's options; those of a configuration file have the same names."""

    name: str = "browse"
    max_chars: int = 10_000
    """Characters of a page that the model sees at most; a cut is marked."""
    fetch_seconds: float = 20.0
    """Time for the fetch as a whole: lookup, redirects and body."""
    read_seconds: float = 5.0
    """Time for reading the document; a page that takes longer is read once more, without leaving out navigation."""
    workers: int = 2
    max_html_bytes: int = 2 << 20
    max_pdf_bytes: int = 20 << 20
    allowed_networks: Sequence[str] = ()
    """Networks that may be reached although they are not public, such as that of an internal wiki."""
    cache: str | None = None
    """Path of a cache file, which may be the search's."""
    summarizer: Mapping[str, Any] | None = None
    """The fields of `SummaryOptions`."""

    def __post_init__(self) -> None:
        for limit in ("max_chars", "fetch_seconds", "read_seconds", "workers", "max_html_bytes", "max_pdf_bytes"):
            if not getattr(self, limit) > 0:
                raise ValueError(f"browser: {limit}={getattr(self, limit)}; expected a positive number: raise it")
        if self.max_chars > _MOST_CHARS:
            raise ValueError(f"browser: max_chars={self.max_chars}; expected at most {_MOST_CHARS}: lower it")


class PageBrowser:
    """A `Tool`. Its text is an address as models write them, and a question for the summarizer."""

    def __init__(self, **options: Any) -> None:
        """
        Args:
            options: the fields of `BrowserOptions`.

        Raises:
            ValueError: an option can't work, or the extra `web` is not installed.
            TypeError: there is no such option.
        """
        for module in ("resiliparse", "pypdfium2"):
            if importlib.util.find_spec(module) is None:
                raise ValueError(f"the page browser needs {module}: pip install 'arpo-verl[web]'")
        self.options = BrowserOptions(**options)
        self.name = self.options.name
        self._fetcher = PageFetcher(
            AddressGuard(self.options.allowed_networks),
            FetchLimits(self.options.max_html_bytes, self.options.max_pdf_bytes),
        )
        self._workers = WorkerPool(self.options.workers)
        self._cache = SearchCache(self.options.cache) if self.options.cache else None
        summarizer = self.options.summarizer
        self._summarizer = Summarizer(SummaryOptions(**summarizer)) if summarizer else None

    async def run(self, text: str) -> ToolResult:
        """Read the page at the address in `text`. Never raises but for cancellation."""
        query = parse_page_query(text)
        try:
            page = await self._first_page(query.addresses)
            if (page.text or "").strip() and self._summarizer is not None:
                return await self._summary(self._summarizer, page, query.question)
        except (PageError, ServiceError) as error:
            return ToolResult(f"Error: {error}", error.status)
        except Exception as error:
            # At the tool's boundary: whatever a page makes a library raise must not reach the rollout.
            log_failure(logger, "the page browser failed")
            return ToolResult(
                f"Error: the page browser failed: {type(error).__name__}", ToolStatus.INFRASTRUCTURE_ERROR
            )
        if not (page.text or "").strip():
            return ToolResult(f"{page.title}\nThe page has no text.".lstrip(), ToolStatus.EMPTY)
        return ToolResult(self._display_text(page))

    async def _summary(self, summarizer: Summarizer, page: Passage, question: str) -> ToolResult:
        """Return the summary; without one the page itself, and a status that is counted."""
        try:
            summary = await summarizer.summarize(page.text or "", question)
        except ServiceError as error:
            logger.warning("%s", redact(str(error)))
            return ToolResult(f"(no summary)\n{self._display_text(page)}", error.status)
        return ToolResult(f"{page.title}\n{page.url}\n\n{summary}"[: self.options.max_chars].lstrip())

    def _display_text(self, page: Passage) -> str:
        text = page.text or ""
        cut = "\n...(page cut)" if len(text) > self.options.max_chars else ""
        return f"{page.title}\n{page.url}\n\n{text[: self.options.max_chars]}{cut}".lstrip()

    async def _first_page(self, addresses: Sequence[str]) -> Passage:
        """Return the page at the first address that has one.

        Raises:
            PageError: none has.
        """
        *others, last = addresses
        for address in others:
            try:
                return await self._page(address)
            except PageError as error:
                if not error.may_be_elsewhere:
                    raise
        return await self._page(last)

    async def _page(self, address: str) -> Passage:
        url = str(checked_url(address))
        # The parameters make the key one that no search has; an address keeps its case.
        key = CacheKey("page", url, f"{self.options.max_html_bytes}")
        if self._cache is not None and (cached := await self._cache.get(key)):
            return cached[0]
        try:
            page = await asyncio.wait_for(
                self._fetcher.fetch(url, self.options.fetch_seconds), self.options.fetch_seconds
            )
        except asyncio.TimeoutError:
            message = f"the page did not come within {self.options.fetch_seconds:g} s"
            raise PageError(message, ToolStatus.TIMEOUT) from None
        found = await self._read(page)
        text = found.text[:_MOST_CHARS]
        passage = Passage(text[:300], found.title[:300], page.url, text)
        if self._cache is not None and text:
            await self._cache.put(key, [passage])
        return passage

    async def _read(self, page: Page) -> PageText:
        try:
            found = await self._read_by_worker(page, is_thorough=True)
        except PageWorkerError as error:
            if page.kind == "pdf":
                raise PageError(f"the PDF can't be read: {error}", ToolStatus.LIMIT) from None
            try:
                found = await self._read_by_worker(page, is_thorough=False)
            except PageWorkerError:
                raise PageError(f"the page can't be read: {error}", ToolStatus.LIMIT) from None
        if found.error:
            raise PageError(f"the {page.kind} can't be read: {found.error}")
        return found

    async def _read_by_worker(self, page: Page, is_thorough: bool) -> PageText:
        request = {"kind": page.kind, "charset": page.charset, "is_thorough": is_thorough}
        return await self._workers.read(request, page.data, self.options.read_seconds)
