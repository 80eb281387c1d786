"""A user's own search engine by its dotted path: any class with `search(query, top_k)` becomes a back-end."""

import inspect
import logging
from collections.abc import Mapping
from typing import Any

from arpo_tools import dotted_path
from arpo_tools.passage import Passage
from arpo_tools.search.backend import SearchBackend

logger = logging.getLogger(__name__)

DEFAULT_TOP_K = 10


class OwnBackend:
    """A `SearchBackend` over an object with `async def search(self, query, top_k)`.

    Optional attributes of the object: `name`, by default the dotted path; `parameters`, what else answers depend on;
    `default_top_k`, once called `usual_top_k`.
    """

    def __init__(self, path: str, engine: Any) -> None:
        self.name: str = getattr(engine, "name", path)
        self.parameters: dict[str, str] = dict(getattr(engine, "parameters", {}))
        self.default_top_k = _default_top_k(path, engine)
        self._engine = engine

    async def search(self, query: str, top_k: int) -> list[Passage]:
        """Return at most `top_k` of the engine's passages; a text counts as a passage without title and address.

        Raises:
            SearchError: the engine says that there is no answer.
            TypeError: it returned something else.
        """
        found = await self._engine.search(query, top_k)
        passages = [Passage(one) if isinstance(one, str) else one for one in found]
        for passage in passages:
            if not isinstance(passage, Passage):
                raise TypeError(f"{self.name} returned {type(passage).__name__}; expected passages or texts")
        return passages[:top_k]


def _default_top_k(path: str, engine: Any) -> int:
    if not hasattr(engine, "default_top_k") and hasattr(engine, "usual_top_k"):
        logger.warning("search back-end %s: `usual_top_k` is now `default_top_k`: rename it", path)
        return int(engine.usual_top_k)
    return int(getattr(engine, "default_top_k", DEFAULT_TOP_K))


def open_own(path: str, options: Mapping[str, Any]) -> SearchBackend:
    """Make the search engine that a dotted path names, with its own options.

    Raises:
        ValueError: it can't be loaded, an option does not fit it, or it has no coroutine `search`.
    """
    make = dotted_path.load(path, "search back-end")
    try:
        inspect.signature(make).bind(**options)
    except TypeError as error:
        known = list(inspect.signature(make).parameters)
        raise ValueError(f"search back-end {path}: {error}; its options are {known}") from None
    engine = make(**options)
    if not inspect.iscoroutinefunction(getattr(engine, "search", None)):
        raise ValueError(
            f"search back-end {path}: expected a class with `async def search(self, query, top_k)`: add it, with "
            f"`asyncio.to_thread` inside where the search itself blocks"
        )
    return OwnBackend(path, engine)
