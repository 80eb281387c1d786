"""JSON over HTTP for the search engines: one session for each event loop, retries that are worth it, a cap on time.

Retried: no connection, time-outs, 429 (as `Retry-After` says), 5xx and answers cut short. Not retried: a refused key or
account, every other status, a whole answer that is no JSON. Redirects are not followed: they would take the key to
another host. Proxies come from the environment's `HTTPS_PROXY` and its kin.
"""

import asyncio
import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import stamina

from arpo_tools.call_limits import CallLimits
from arpo_tools.loop_local import LoopLocal
from arpo_tools.redaction import Secrets, redact
from arpo_tools.search.passage import SearchError
from arpo_tools.tool import ToolStatus

_MOST_BYTES = 4 << 20
"""Of a decoded answer; ten results with whole texts take 1 MB at most."""
_MOST_CONNECTIONS = 256
"""Of one process; further calls wait for one."""
_REFUSED = frozenset({401, 402, 403})


@dataclass(frozen=True)
class Request:
    """One call. Headers hold the key and are never shown."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    params: Mapping[str, str] = field(default_factory=dict)
    json: Any = None


@dataclass(frozen=True)
class Service:
    """Who is called, in the words of error messages."""

    name: str
    secrets: Secrets = field(default_factory=Secrets)
    """The key and what the URL holds, so that they can be struck out of what the service answers."""
    fix: str = "check its configuration"
    """What a human must do when the service refuses."""
    more_refusals: frozenset[int] = frozenset()
    """Statuses that mean a refused key or account here, beside 401, 402 and 403."""


@dataclass(frozen=True)
class Patience:
    """How long a search may take."""

    attempt_seconds: float = 10.0
    total_seconds: float = 30.0
    """Of all attempts, the waits between them and the wait for the rate limit included."""
    attempts: int = 4

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{name}={value}; expected a positive number: raise it")


class JsonClient:
    """Calls one service."""

    def __init__(self, service: Service, patience: Patience | None = None, limits: CallLimits | None = None) -> None:
        self._service = service
        self._patience = patience or Patience()
        self._limits = limits
        self._sessions: LoopLocal[aiohttp.ClientSession] = LoopLocal(_new_session, aiohttp.ClientSession.close)

    async def fetch(self, request: Request) -> Any:
        """Return the decoded JSON of an answer with a status from 200 to 299.

        Raises:
            SearchError: there is none.
        """
        deadline = time.monotonic() + self._patience.total_seconds
        try:
            return await self._once(request, deadline)
        except SearchError as error:
            if not error.is_transient:
                raise
            first = error
        try:
            return await asyncio.wait_for(self._again(request, first, deadline), deadline - time.monotonic())
        except asyncio.TimeoutError:
            raise self._late(self._patience.total_seconds) from None

    async def _again(self, request: Request, first: SearchError, deadline: float) -> Any:
        """Retry after the first attempt, which was made outside: most calls need no retry, and its set-up is dear."""

        def delay(error: Exception) -> bool | float:
            if not isinstance(error, SearchError) or not error.is_transient:
                return False
            if error.retry_after_seconds is None:
                return True
            wait = error.retry_after_seconds + random.uniform(0.0, 1.0)  # not all workers at the same moment
            return wait if time.monotonic() + wait < deadline else False

        patience = self._patience
        retries = stamina.retry_context(
            on=delay, attempts=patience.attempts, timeout=patience.total_seconds, wait_initial=0.2, wait_max=5.0
        )
        async for attempt in retries:
            with attempt:
                if attempt.num == 1:
                    raise first
                return await self._once(request, deadline)

    async def _once(self, request: Request, deadline: float) -> Any:
        if self._limits is not None:
            try:
                await asyncio.wait_for(self._limits.take(), deadline - time.monotonic())
            except asyncio.TimeoutError:
                raise self._late(self._patience.total_seconds) from None
        seconds = max(0.001, min(self._patience.attempt_seconds, deadline - time.monotonic()))
        session = await self._sessions.get()
        try:
            async with session.request(
                request.method,
                request.url,
                headers=request.headers,
                params=request.params,
                json=request.json,
                timeout=aiohttp.ClientTimeout(total=seconds),
                allow_redirects=False,
            ) as response:
                body = await _read(response)
        except asyncio.TimeoutError:
            raise self._late(seconds, is_transient=True) from None
        except aiohttp.ClientConnectorError as error:
            self._uncount()
            raise self._broken(error) from None
        except (aiohttp.ClientError, OSError) as error:
            raise self._broken(error) from None
        except ValueError as error:  # a URL or header that can't be sent, which the library would show whole
            raise self._error(f"the request can't be sent: {error}: check its configuration") from None
        # Answers tend to come together: everything else may go on before they are all decoded.
        await asyncio.sleep(0)
        return self._decoded(response, body)

    def _uncount(self) -> None:
        if self._limits is not None:
            self._limits.give_back()

    def _decoded(self, response: aiohttp.ClientResponse, body: bytes) -> Any:
        status = response.status
        if status in _REFUSED or status in self._service.more_refusals:
            self._uncount()
            raise self._error(f"refused with HTTP {status}: {self._service.fix}", ToolStatus.REFUSED)
        if status == 429 or status >= 500:
            if status == 429:
                self._uncount()
            raise SearchError(
                f"{self._service.name}: HTTP {status}",
                ToolStatus.INFRASTRUCTURE_ERROR,
                is_transient=True,
                retry_after_seconds=retry_after(response.headers.get("Retry-After")),
            )
        if not 200 <= status < 300:
            raise self._error(f"HTTP {status}: {self._shown(body)}")
        if len(body) > _MOST_BYTES:
            raise self._error(f"an answer of more than {_MOST_BYTES >> 20} MB")
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise self._error(f"expected JSON, got {self._shown(body)}") from None

    def _late(self, seconds: float, is_transient: bool = False) -> SearchError:
        # No `timeout`, which is for calls that are themselves too long: a search is not to blame for a slow service.
        return self._error(f"no answer within {seconds:.3g} s", is_transient=is_transient)

    def _broken(self, error: Exception) -> SearchError:
        return self._error(f"no whole answer: {str(error) or type(error).__name__}", is_transient=True)

    def _error(
        self, text: str, status: ToolStatus = ToolStatus.INFRASTRUCTURE_ERROR, is_transient: bool = False
    ) -> SearchError:
        return SearchError(redact(f"{self._service.name}: {text}", self._service.secrets), status, is_transient)

    def _shown(self, body: bytes) -> str:
        # Redacted before it is cut, which could leave the half of a secret that nobody recognises.
        return repr(redact(body[:20_000].decode("utf-8", "replace"), self._service.secrets)[:200])


def _new_session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=_MOST_CONNECTIONS),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=True,
    )


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Return the decoded body, one byte more than `_MOST_BYTES` of it at most."""
    parts: list[bytes] = []
    missing = _MOST_BYTES + 1
    async for part in response.content.iter_chunked(1 << 16):
        parts.append(part[:missing])
        missing -= len(parts[-1])
        if missing == 0:
            response.close()  # the rest must not be read to reuse the connection
            break
    return b"".join(parts)


def url_at(base_url: str, path: str) -> str:
    """Return the URL of a path below a base URL, whose query, if it has one, stays the query."""
    parts = urlsplit(base_url)
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/") + path, parts.query, ""))


def retry_after(header: str | None) -> float | None:
    """Return the seconds that a `Retry-After` header asks for, a number or a date; None if it can't be read."""
    if header is None:
        return None
    if header.strip().isascii() and header.strip().isdigit():
        return float(header.strip()[:12])
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None
