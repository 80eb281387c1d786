"""The parts of a call to an HTTP service: the service, one request, and the error of a call without an answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from arpo_tools.redaction import Secrets
from arpo_tools.tool import ToolStatus


class ServiceError(Exception):
    """A call that has no answer: the text says what to do, the status who must act. Holds no key."""

    def __init__(
        self, text: str, status: ToolStatus, is_transient: bool = False, retry_after_seconds: float | None = None
    ) -> None:
        """
        Args:
            is_transient: the same request may succeed later.
            retry_after_seconds: when the service asks for it.
        """
        super().__init__(text)
        self.status = status
        self.is_transient = is_transient
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True)
class HttpRequest:
    """One request. Headers hold the key and are never shown."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    params: Mapping[str, str] = field(default_factory=dict)
    json: Any = None


@dataclass(frozen=True)
class Service:
    """A service: its name for error messages, its secrets, and what a refusal means."""

    name: str
    secrets: Secrets = field(default_factory=Secrets)
    """The key and what the URL holds, so that they can be redacted in what the service answers."""
    fix: str = "check its configuration"
    """Advice for the user when the service refuses."""
    more_refusals: frozenset[int] = frozenset()
    """Statuses that mean a refused key or account here, beside 401, 402 and 403."""


def url_at(base_url: str, path: str) -> str:
    """Return the URL of a path below a base URL, whose query, if it has one, stays the query."""
    parts = urlsplit(base_url)
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/") + path, parts.query, ""))
