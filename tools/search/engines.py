"""The search engines that are asked over HTTP: how each is asked and how its answer is read.

Every engine is a frozen dataclass: its fields are its options, `request` makes the call and `passages` reads the
decoded answer. An answer of another shape is an error, never an empty result.
"""

import html
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol
from urllib.parse import urlencode

from arpo_tools.http.json_client import JsonClient
from arpo_tools.http.service import HttpRequest, Service, url_at
from arpo_tools.passage import Passage
from arpo_tools.redaction import Secrets, redact, without_credentials, without_user_info
from arpo_tools.search.backend import SearchError
from arpo_tools.tool import ToolStatus

_MOST_CHARS = 400
"""Characters of a query: what Brave and Tavily take, and what fits an address in any script."""


class SearchEngine(Protocol):
    """How one engine is asked and how its answer is read; `HttpBackend` makes the call."""

    @property
    def service(self) -> Service: ...

    @property
    def parameters(self) -> dict[str, str]: ...

    @property
    def is_paid(self) -> bool: ...

    @property
    def default_top_k(self) -> int: ...

    def request(self, query: str, top_k: int) -> HttpRequest: ...

    def passages(self, answer: Any) -> list[Passage]:
        """
        Raises:
            SearchError: the answer has another shape.
        """
        ...


class HttpBackend:
    """A `SearchBackend` that asks one engine over HTTP."""

    def __init__(self, engine: SearchEngine, client: JsonClient) -> None:
        self.name = engine.service.name
        self.parameters = engine.parameters
        self.default_top_k = engine.default_top_k
        self._engine = engine
        self._client = client

    async def search(self, query: str, top_k: int) -> list[Passage]:
        answer = await self._client.fetch(self._engine.request(query, top_k))
        secrets = self._engine.service.secrets
        return [_without_secrets(passage, secrets) for passage in self._engine.passages(answer)[:top_k]]


def _without_secrets(passage: Passage, secrets: Secrets) -> Passage:
    """Return a passage as it may be shown and kept: a server may build its documents' URLs from the request's."""
    redacted = secrets.redact_content
    return replace(
        passage,
        snippet=redacted(passage.snippet),
        title=redacted(passage.title),
        url=without_user_info(redacted(passage.url)),
        text=passage.text and redacted(passage.text),
    )


@dataclass(frozen=True)
class _Account:
    """The environment variable of a paid service's key, and the site where its account is managed."""

    variable: str
    site: str

    def service(self, name: str, key: str, base_url: str, more_refusals: frozenset[int] = frozenset()) -> Service:
        fix = f"check the key in the environment variable {self.variable} and the credit of its account at {self.site}"
        return Service(name, Secrets.of_service(base_url, [key]), fix, more_refusals)


def _entries(service: Service, answer: Any, *path: str, is_absent_empty: bool = False) -> list[Mapping[str, Any]]:
    """Return the list of objects at a path of keys; entries that are not objects are left out."""
    found = answer
    for key in path:
        if is_absent_empty and isinstance(found, Mapping) and key not in found:
            return []
        found = found.get(key) if isinstance(found, Mapping) else None
    if not isinstance(found, list):
        raise _wrong_shape(service, f"expected a list at {'.'.join(path)} in the answer", answer)
    return [entry for entry in found if isinstance(entry, Mapping)]


def _wrong_shape(service: Service, expected: str, answer: Any) -> SearchError:
    shown = redact(str(answer)[:20_000], service.secrets)[:200]  # before the cut, which could halve a secret
    return SearchError(f"{service.name}: {expected}, got {shown!r}", ToolStatus.INFRASTRUCTURE_ERROR)


def _text(entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    return value if isinstance(value, str) else ""


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _passages(entries: Sequence[Mapping[str, Any]], url: str, snippet: str) -> list[Passage]:
    """Return a passage for each entry that has a snippet or a title."""
    passages = (Passage(_text(entry, snippet), _text(entry, "title"), _text(entry, url)) for entry in entries)
    return [passage for passage in passages if passage.snippet or passage.title]


@dataclass(frozen=True)
class Serper:
    """Google through serper.dev; `SERPER_API_KEY`."""

    key: str = field(repr=False)
    base_url: str = field(default="https://google.serper.dev", repr=False)
    country: str = "us"
    language: str = "en"
    is_paid = True
    default_top_k = 10

    @property
    def service(self) -> Service:
        return _Account("SERPER_API_KEY", "serper.dev").service("serper", self.key, self.base_url)

    @property
    def parameters(self) -> dict[str, str]:
        return {"country": self.country, "language": self.language}

    def request(self, query: str, top_k: int) -> HttpRequest:
        body = {"q": query, "num": top_k, "gl": self.country, "hl": self.language}
        return HttpRequest("POST", url_at(self.base_url, "/search"), {"X-API-KEY": self.key}, json=body)

    def passages(self, answer: Any) -> list[Passage]:
        return _passages(_entries(self.service, answer, "organic"), "link", "snippet")


@dataclass(frozen=True)
class Tavily:
    """tavily.com; `TAVILY_API_KEY`. `depth="advanced"` costs twice as much."""

    key: str = field(repr=False)
    base_url: str = field(default="https://api.tavily.com", repr=False)
    depth: str = "basic"
    is_paid = True
    default_top_k = 5

    @property
    def service(self) -> Service:
        # 432 and 433: the plan's and the pay-as-you-go limit.
        account = _Account("TAVILY_API_KEY", "app.tavily.com")
        return account.service("tavily", self.key, self.base_url, frozenset({432, 433}))

    @property
    def parameters(self) -> dict[str, str]:
        return {"depth": self.depth}

    def request(self, query: str, top_k: int) -> HttpRequest:
        body = {"query": query[:_MOST_CHARS], "max_results": min(top_k, 20), "search_depth": self.depth}
        return HttpRequest("POST", url_at(self.base_url, "/search"), {"Authorization": f"Bearer {self.key}"}, json=body)

    def passages(self, answer: Any) -> list[Passage]:
        entries = _entries(self.service, answer, "results")
        found = (
            Passage(
                _text(entry, "content"),
                _text(entry, "title"),
                _text(entry, "url"),
                _text(entry, "raw_content") or None,
                _number(entry.get("score")),
            )
            for entry in entries
        )
        return [passage for passage in found if passage.snippet or passage.title]


_TAG = re.compile(r"<[^<>]*>")


@dataclass(frozen=True)
class Brave:
    """search.brave.com's API; `BRAVE_API_KEY`. At most 20 results; a query is cut to 400 characters and 50 words."""

    key: str = field(repr=False)
    base_url: str = field(default="https://api.search.brave.com", repr=False)
    country: str = "us"
    language: str = "en"
    is_paid = True
    default_top_k = 10

    @property
    def service(self) -> Service:
        account = _Account("BRAVE_API_KEY", "api-dashboard.search.brave.com")
        return account.service("brave", self.key, self.base_url)

    @property
    def parameters(self) -> dict[str, str]:
        return {"country": self.country, "language": self.language}

    def request(self, query: str, top_k: int) -> HttpRequest:
        query = " ".join(query.split()[:50])[:_MOST_CHARS]
        params = {"q": query, "count": str(min(top_k, 20)), "country": self.country, "search_lang": self.language}
        url = url_at(self.base_url, "/res/v1/web/search")
        return HttpRequest("GET", url, {"X-Subscription-Token": self.key}, params | {"text_decorations": "false"})

    def passages(self, answer: Any) -> list[Passage]:
        # Without results Brave leaves `web` out of an answer that is otherwise whole.
        is_whole = isinstance(answer, Mapping) and answer.get("type") == "search"
        entries = _entries(self.service, answer, "web", "results", is_absent_empty=is_whole)
        plain = [{**entry, "description": _strip_tags(_text(entry, "description"))} for entry in entries]
        return _passages(plain, "url", "description")


def _strip_tags(text: str) -> str:
    return html.unescape(_TAG.sub("", text))


@dataclass(frozen=True)
class BrightData:
    """Google or Bing through Bright Data's SERP API; `BRIGHTDATA_API_KEY` and a zone of that account."""

    key: str = field(repr=False)
    zone: str
    base_url: str = field(default="https://api.brightdata.com", repr=False)
    engine: str = "google"
    country: str = "us"
    language: str = "en"
    is_paid = True
    default_top_k = 10

    def __post_init__(self) -> None:
        if self.engine not in ("google", "bing"):
            raise ValueError(f"brightdata: engine={self.engine!r}; expected google or bing")

    @property
    def service(self) -> Service:
        account = _Account("BRIGHTDATA_API_KEY", "brightdata.com/cp")
        service = account.service("brightdata", self.key, self.base_url)
        return replace(service, fix=f"{service.fix}, and that its zone {self.zone!r} is a SERP zone")

    @property
    def parameters(self) -> dict[str, str]:
        return {"engine": self.engine, "country": self.country, "language": self.language}

    def request(self, query: str, top_k: int) -> HttpRequest:
        if self.engine == "google":
            params = {"q": query[:_MOST_CHARS], "num": str(top_k), "gl": self.country, "hl": self.language}
        else:
            params = {"q": query[:_MOST_CHARS], "count": str(top_k), "mkt": f"{self.language}-{self.country.upper()}"}
        url = f"https://www.{self.engine}.com/search?{urlencode({**params, 'brd_json': '1'})}"
        body = {"zone": self.zone, "url": url, "format": "raw"}
        return HttpRequest(
            "POST", url_at(self.base_url, "/request"), {"Authorization": f"Bearer {self.key}"}, json=body
        )

    def passages(self, answer: Any) -> list[Passage]:
        # `organic` is left out when there are no results; `general` describes every parsed page.
        is_whole = isinstance(answer, Mapping) and "general" in answer
        return _passages(_entries(self.service, answer, "organic", is_absent_empty=is_whole), "link", "description")


@dataclass(frozen=True)
class SearXNG:
    """A self-hosted SearXNG instance: no key, no cost."""

    base_url: str = field(repr=False)
    language: str = "en"
    is_paid = False
    default_top_k = 10

    @property
    def service(self) -> Service:
        shown = without_credentials(self.base_url)
        fix = f"add `json` to search.formats in the settings.yml of {shown}"
        return Service("searxng", Secrets.of_service(self.base_url), fix)

    @property
    def parameters(self) -> dict[str, str]:
        return {"base_url": without_credentials(self.base_url), "language": self.language}

    def request(self, query: str, top_k: int) -> HttpRequest:
        params = {"q": query[:_MOST_CHARS], "format": "json", "language": self.language}
        return HttpRequest("GET", url_at(self.base_url, "/search"), params=params)

    def passages(self, answer: Any) -> list[Passage]:
        return _passages(_entries(self.service, answer, "results"), "url", "content")


@dataclass(frozen=True)
class RetrievalServer:
    """A server that speaks Search-R1's `/retrieve`, such as `python -m arpo_tools.retrieval_server`."""

    base_url: str = field(repr=False)
    is_paid = False
    default_top_k = 3

    @property
    def service(self) -> Service:
        fix = f"check that {without_credentials(self.base_url)} is a retrieval server open to this machine"
        return Service("retrieval_server", Secrets.of_service(self.base_url), fix)

    @property
    def parameters(self) -> dict[str, str]:
        return {"server": without_credentials(self.base_url)}

    def request(self, query: str, top_k: int) -> HttpRequest:
        body = {"queries": [query], "topk": top_k, "return_scores": True}
        return HttpRequest("POST", url_at(self.base_url, "/retrieve"), json=body)

    def passages(self, answer: Any) -> list[Passage]:
        results = answer.get("result") if isinstance(answer, Mapping) else None
        if not isinstance(results, list) or len(results) != 1 or not isinstance(results[0], list):
            raise _wrong_shape(self.service, "expected one list of results for one query", answer)
        return [_passage_of_document(item) for item in results[0] if isinstance(item, Mapping)]


def _passage_of_document(item: Mapping[str, Any]) -> Passage:
    """Return the passage of `{"document": {"contents": '"Title"\\ntext'}, "score": ...}` or of the bare document."""
    document = item["document"] if isinstance(item.get("document"), Mapping) else item
    contents = _text(document, "contents") or _text(document, "text")
    first, _, rest = contents.partition("\n")
    is_titled = len(first) > 1 and first.startswith('"') and first.endswith('"') and bool(rest)
    title = first[1:-1] if is_titled else _text(document, "title")
    score = _number(item.get("score"))
    return Passage(rest if is_titled else contents, title, _text(document, "url"), None, score, is_document=True)


ENGINES_AND_KEYS: dict[str, tuple[Callable[..., SearchEngine], str | None]] = {
    "serper": (Serper, "SERPER_API_KEY"),
    "tavily": (Tavily, "TAVILY_API_KEY"),
    "brave": (Brave, "BRAVE_API_KEY"),
    "brightdata": (BrightData, "BRIGHTDATA_API_KEY"),
    "searxng": (SearXNG, None),
    "retrieval_server": (RetrievalServer, None),
}
"""By name: the engine, and the environment variable of its key."""
