"""The interface of search back-ends, and their error."""

from typing import Protocol

from arpo_tools.http.service import ServiceError
from arpo_tools.passage import Passage


class SearchError(ServiceError):
    """A search that has no answer: the text says what to do, the status who must act. Holds no key."""


class SearchBackend(Protocol):
    """A source of passages: a corpus, a server, a web search engine."""

    name: str
    """Part of the cache's key."""
    parameters: dict[str, str]
    """What else an answer depends on beside query and `top_k`, such as the market; part of the cache's key."""
    default_top_k: int

    async def search(self, query: str, top_k: int) -> list[Passage]:
        """Return at most `top_k` passages, best first, or none where there is nothing to find.

        Raises:
            ServiceError: there is no answer; a `SearchError` is one.
        """
        ...
