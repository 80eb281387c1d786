"""Opens a search tool from the options of a configuration; the only place that reads keys from the environment."""

import inspect
import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from arpo_tools.cache import SearchCache
from arpo_tools.dotted_path import is_dotted
from arpo_tools.http.call_quota import CallQuota, QuotaCounter
from arpo_tools.redaction import is_web_url, without_credentials
from arpo_tools.search.backend import SearchBackend
from arpo_tools.search.local import LocalBackend
from arpo_tools.search.own import open_own
from arpo_tools.search.replay import ReplayBackend
from arpo_tools.search.tool import BackendSearch, Display

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
    """Time that an answer without results stays in the cache."""
    attempt_seconds: float = 10.0
    total_seconds: float = 30.0
    attempts: int = 4
    calls_per_second: float | None = None
    """Over all processes that share `limits_file`."""
    max_paid_calls: int | None = None
    """Over all processes that share `limits_file`; needs that option."""
    limits_file: str | None = None
    """File where calls are counted; by default, for `calls_per_second` alone, `limits.sqlite` in `cache_folder()`."""


def cache_folder() -> Path:
    """Return `$ARPO_TOOLS_CACHE`, else `arpo-tools` in the user's cache folder (`$XDG_CACHE_HOME` or `~/.cache`)."""
    if folder := os.environ.get("ARPO_TOOLS_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "arpo-tools"


def open_search(backend: str = "local", **options: Any) -> BackendSearch:
    """Make the search tool of a back-end.

    Args:
        backend: one of `BACKENDS`, or the dotted path of a class of your own (see `own.py`).
        options: `SearchOptions`, `HttpOptions` for a server, and the back-end's own: the arguments of `LocalBackend`
            and `ReplayBackend`, the fields of the classes in `engines.py`.

    Raises:
        ValueError: an option, a key or a file is missing, unknown or can't work; the message says which.
    """
    if is_dotted(backend):
        return _open_own_search(backend, options)
    if backend not in BACKENDS:
        raise ValueError(f"search back-end {backend!r}: expected one of {', '.join(BACKENDS)}, or a dotted path")
    common = SearchOptions(**_pop_fields(options, SearchOptions))
    display = Display(common.max_passage_chars, common.show_urls)
    if backend in ("local", "replay"):
        return BackendSearch(_offline_backend(backend, options), common.name, common.top_k, display)
    http = HttpOptions(**_pop_fields(options, HttpOptions))
    return BackendSearch(_http_backend(backend, options, http), common.name, common.top_k, display, _cache(http))


def _open_own_search(path: str, options: dict[str, Any]) -> BackendSearch:
    """Make a search tool of a user's own back-end: it has no quota of calls, and a cache only where one is named."""
    common = SearchOptions(**_pop_fields(options, SearchOptions))
    cache = options.pop("cache", None)
    display = Display(common.max_passage_chars, common.show_urls)
    return BackendSearch(
        open_own(path, options), common.name, common.top_k, display, _cache(HttpOptions(cache)) if cache else None
    )


def _pop_fields(options: dict[str, Any], options_class: type[Any]) -> dict[str, Any]:
    """Return those of `options` that are fields of a dataclass, and remove them."""
    return {field.name: options.pop(field.name) for field in fields(options_class) if field.name in options}


def _offline_backend(backend: str, options: Mapping[str, Any]) -> SearchBackend:
    opened: SearchBackend = _instantiate(LocalBackend if backend == "local" else ReplayBackend, backend, options)
    return opened


def _http_backend(backend: str, options: dict[str, Any], http: HttpOptions) -> SearchBackend:
    # Imported here because aiohttp takes a third of a second, and the local search needs none of it.
    from arpo_tools.http.json_client import JsonClient
    from arpo_tools.http.retry import RetryPolicy
    from arpo_tools.search.engines import ENGINES_AND_KEYS, HttpBackend

    make, variable = ENGINES_AND_KEYS[backend]
    if "key" in options:
        raise ValueError(f"{backend}: a key in the configuration would be logged; give it as ${variable}")
    if "base_url" in options:
        options["base_url"] = _base_url(backend, str(options["base_url"]))
    engine = _instantiate(make, backend, {"key": _key(backend, variable), **options} if variable else options)
    if "Authorization" in engine.request("", 1).headers and "@" in urlsplit(engine.base_url).netloc:
        raise ValueError(f"{backend}: base_url holds a user name beside the key in ${variable}; remove it")
    if http.max_paid_calls is not None and not engine.is_paid:
        raise ValueError(f"max_paid_calls: {backend} is not paid for: remove the option")
    policy = RetryPolicy(http.attempt_seconds, http.total_seconds, http.attempts)
    return HttpBackend(engine, JsonClient(engine.service, policy, _quota_counter(backend, http)))


def _instantiate(make: Any, backend: str, options: Mapping[str, Any]) -> Any:
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


def _quota_counter(backend: str, http: HttpOptions) -> QuotaCounter | None:
    quota = CallQuota(http.calls_per_second, http.max_paid_calls)
    if quota == CallQuota():
        return None
    if http.max_paid_calls is not None and not http.limits_file:
        raise ValueError(
            "max_paid_calls needs limits_file, where all processes of a run count: give a path in the run's own "
            "folder, so that a run that goes on keeps its count and a new one starts at 0"
        )
    path = Path(http.limits_file) if http.limits_file else cache_folder() / "limits.sqlite"
    try:
        return QuotaCounter(path, backend, quota)
    except (OSError, sqlite3.Error) as error:
        raise ValueError(
            f"limits_file={str(path)!r} can't be used ({error}): repair it or give another path"
        ) from error
