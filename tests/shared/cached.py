"""Short words for tests of the cache."""

import asyncio

from arpo_tools.cache import CacheKey, SearchCache
from arpo_tools.passage import Passage

PARIS = Passage("The capital of France.", "Paris", "https://p.org/", "whole text", 1.5)


def key(query: str = "paris", backend: str = "serper", **parameters: str) -> CacheKey:
    return CacheKey.of_query(backend, query, parameters)


def get(cache: SearchCache, of: CacheKey) -> list[Passage] | None:
    return asyncio.run(cache.get(of))


def put(cache: SearchCache, of: CacheKey, *passages: Passage) -> None:
    asyncio.run(cache.put(of, passages))
