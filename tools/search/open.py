"""From the options of a configuration to a search tool: the only place that reads keys from the environment."""

import inspect
import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from arpo_tools.cache import SearchCache
from arpo_tools.call_limits import CallLimits, Limits
from arpo_tools.dotted_path import is_dotted
from arpo_tools.redaction import is_web_url, without_credentials
from arpo_tools.search.local import LocalBackend
from arpo_tools.search.own import open_own
from arpo_tools.search.passage import Backend
from arpo_tools.search.replay import ReplayBackend
from arpo_tools.search.tool import Display, SearchTool

BACKENDS = ("local", "retrieval_server", "brightdata", "serper", "tavily", "brave", "searxng", "replay")
AUTO = "auto"


@dataclass(frozen=True)
class SearchOptions:
    """The options that every back-end has; a back-end's own stand beside them."""

    name: str = "search"
    """The tool's name, which is also its tag."""
    top_k: int | None = None
    """Passages of an answer; by default 3 for `local` and `retrieval_server`, 5 for `tavily`, else 10."""
    max_passage_chars: int = 1000
    show_urls: bool = False


@dataclass(frozen=True)
class HttpOptions:
    """The options of the back-ends that ask a server."""

    cache: str | None = AUTO
    """Path of the cache; `auto` is `search.sqlite` in `cache_folder()`; null is no cache."""
    empty_seconds: float = 3600.0
    """How long an answer without results stays in the cache."""
    attempt_seconds: float = 10.0
    total_seconds: float = 30.0
    attempts: int = 4
    calls_per_second: float | None = None
    """Over all processes that share `limits_file`."""
    max_paid_calls: int | None = None
    """Over all processes that share `limits_file`; needs that option."""
    limits_file: str | None = None
    """Where calls are counted; by default, for `calls_per_second` alone, `limits.sqlite` in `cache_folder()`."""


def cache_folder() -> Path:
    """Return `$ARPO_TOOLS_CACHE`, else `arpo-tools` in the user's cache folder (`$XDG_CACHE_HOME` or `~/.cache`)."""
    if folder := os.environ.get("ARPO_TOOLS_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "arpo-tools"


def open_search(backend: str = "local", **options: Any) -> SearchTool:
    """Make the search tool of a back-end.

    Args:
        backend: one of `BACKENDS`, or the dotted path of a class of your own (see `own.py`).
        options: `SearchOptions`, `HttpOptions` for a server, and the back-end's own: the arguments of `LocalBackend`
            and `ReplayBackend`, the fields of the classes in `engines.py`.

    Raises:
        ValueError: an option, a key or a file is missing, unknown or can't work; the message says which.
    """
    if is_dotted(backend):
        return _own(backend, options)
    if backend not in BACKENDS:
        raise ValueError(f"search back-end {backend!r}: expected one of {', '.join(BACKENDS)}, or a dotted path")
    common = SearchOptions(**_taken(options, SearchOptions))
    display = Display(common.max_passage_chars, common.show_urls)
    if backend in ("local", "replay"):
        return SearchTool(_offline(backend, options), common.name, common.top_k, display)
    http = HttpOptions(**_taken(options, HttpOptions))
    made = _engine(backend, options, http)
    return SearchTool(made, common.name, common.top_k, display, _cache(http))


def _own(path: str, options: dict[str, Any]) -> SearchTool:
    """Make a search tool of somebody's own back-end: it has no limits of calls, and a cache only where one is named."""
    common = SearchOptions(**_taken(options, SearchOptions))
    cache = options.pop("cache", None)
    display = Display(common.max_passage_chars, common.show_urls)
    return SearchTool(
        open_own(path, options), common.name, common.top_k, display, _cache(HttpOptions(cache)) if cache else None
    )


def _taken(options: dict[str, Any], of: type[Any]) -> dict[str, Any]:
    """Take the fields of a dataclass out of `options`."""
    return {field.name: options.pop(field.name) for field in fields(of) if field.name in options}


def _offline(backend: str, options: Mapping[str, Any]) -> Backend:
    made: Backend = _made(LocalBackend if backend == "local" else ReplayBackend, backend, options)
    return made


def _engine(backend: str, options: dict[str, Any], http: HttpOptions) -> Backend:
    # Imported here because aiohttp takes a third of a second, and the local search needs none of it.
    from arpo_tools.search.engines import KEYS, HttpBackend
    from arpo_tools.search.http import JsonClient, Patience

    make, variable = KEYS[backend]
    if "key" in options:
        raise ValueError(f"{backend}: a key in the configuration would be logged; give it as ${variable}")
    if "base_url" in options:
        options["base_url"] = _base_url(backend, str(options["base_url"]))
    engine = _made(make, backend, {"key": _key(backend, variable), **options} if variable else options)
    if "Authorization" in engine.request("", 1).headers and "@" in urlsplit(engine.base_url).netloc:
        raise ValueError(f"{backend}: base_url holds a user name beside the key in ${variable}; remove it")
    if http.max_paid_calls is not None and not engine.is_paid:
        raise ValueError(f"max_paid_calls: {backend} is not paid for: remove the option")
    patience = Patience(http.attempt_seconds, http.total_seconds, http.attempts)
    return HttpBackend(engine, JsonClient(engine.service, patience, _limits(backend, http)))


def _made(make: Any, backend: str, options: Mapping[str, Any]) -> Any:
    try:
        inspect.signature(make).bind(**options)
    except TypeError as error:
        known = [name for name in inspect.signature(make).parameters if name != "key"]
        common = [field.name for field in fields(SearchOptions)]
        http = [] if backend in ("local", "replay") else [field.name for field in fields(HttpOptions)]
        raise ValueError(f"search back-end {backend}: {error}; its options are {known + common + http}") from None
    return make(**options)


def _key(backend: str, variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(f"{backend}: the environment variable {variable} is not set: put the service's key there")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError(
            f"{backend}: the environment variable {variable} holds characters that no key has: copy it anew"
        )
    return key


def _base_url(backend: str, url: str) -> str:
    if not is_web_url(url):
        shown = without_credentials(url)
        raise ValueError(f"{backend}: base_url={shown!r}; expected http://host:port or https://host: correct it")
    return url.rstrip("/")


def _cache(http: HttpOptions) -> SearchCache | None:
    if not http.cache:
        return None
    path = cache_folder() / "search.sqlite" if http.cache == AUTO else Path(http.cache)
    return SearchCache(path, http.empty_seconds)


def _limits(backend: str, http: HttpOptions) -> CallLimits | None:
    limits = Limits(http.calls_per_second, http.max_paid_calls)
    if limits == Limits():
        return None
    if http.max_paid_calls is not None and not http.limits_file:
        raise ValueError(
            "max_paid_calls needs limits_file, where all processes of a run count: give a path in the run's own "
            "folder, so that a run that goes on keeps its count and a new one starts at 0"
        )
    path = Path(http.limits_file) if http.limits_file else cache_folder() / "limits.sqlite"
    try:
        return CallLimits(path, backend, limits)
    except (OSError, sqlite3.Error) as error:
        raise ValueError(
            f"limits_file={str(path)!r} can't be used ({error}): repair it or give another path"
        ) from error
