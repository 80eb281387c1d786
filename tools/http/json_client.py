"""JSON over HTTP: one session for each event loop, retries of what may succeed later, a cap on time.

Retried: no connection, time-outs, 429 (as `Retry-After` says), 5xx and answers cut short. Not retried: a refused key or
account, every other status, a whole answer that is not valid JSON. Redirects are not followed: they would take the key
to another host. Proxies come from `HTTPS_PROXY` and the like in the environment.
"""

import asyncio
import json
import random
import time
from typing import Any

import aiohttp
import stamina

from arpo_tools.http.call_quota import QuotaCounter
from arpo_tools.http.retry import RetryPolicy, retry_after
from arpo_tools.http.service import HttpRequest, Service, ServiceError
from arpo_tools.loop_local import LoopLocal
from arpo_tools.redaction import redact
from arpo_tools.tool import ToolStatus

_MOST_BYTES = 4 << 20
"""Size of a decoded answer; ten results with whole texts take 1 MB at most."""
_MOST_CONNECTIONS = 256
"""Connections of one process; further calls wait for one."""
_REFUSED = frozenset({401, 402, 403})


class JsonClient:
    """A client of one service, with retries and a quota."""

    def __init__(self, service: Service, policy: RetryPolicy | None = None, quota: QuotaCounter | None = None) -> None:
        self._service = service
        self._policy = policy or RetryPolicy()
        self._quota = quota
        self._sessions: LoopLocal[aiohttp.ClientSession] = LoopLocal(_new_session, aiohttp.ClientSession.close)

    async def fetch(self, request: HttpRequest) -> Any:
        """Return the decoded JSON of an answer with a status from 200 to 299.

        Raises:
            ServiceError: there is no such answer.
        """
        deadline = time.monotonic() + self._policy.total_seconds
        try:
            return await self._attempt(request, deadline)
        except ServiceError as error:
            if not error.is_transient:
                raise
            first = error
        try:
            return await asyncio.wait_for(self._retry(request, first, deadline), deadline - time.monotonic())
        except asyncio.TimeoutError:
            raise self._timeout_error(self._policy.total_seconds) from None

    async def _retry(self, request: HttpRequest, first: ServiceError, deadline: float) -> Any:
        """Retry after the first attempt, made by `fetch`: most calls need no retry, and its set-up costs time."""

        def delay(error: Exception) -> bool | float:
            if not isinstance(error, ServiceError) or not error.is_transient:
                return False
            if error.retry_after_seconds is None:
                return True
            wait = error.retry_after_seconds + random.uniform(0.0, 1.0)  # not all workers at the same moment
            return wait if time.monotonic() + wait < deadline else False

        policy = self._policy
        retries = stamina.retry_context(
            on=delay, attempts=policy.attempts, timeout=policy.total_seconds, wait_initial=0.2, wait_max=5.0
        )
        async for attempt in retries:
            with attempt:
                if attempt.num == 1:
                    raise first
                return await self._attempt(request, deadline)

    async def _attempt(self, request: HttpRequest, deadline: float) -> Any:
        if self._quota is not None:
            try:
                await asyncio.wait_for(self._quota.acquire(), deadline - time.monotonic())
            except asyncio.TimeoutError:
                raise self._timeout_error(self._policy.total_seconds) from None
        seconds = max(0.001, min(self._policy.attempt_seconds, deadline - time.monotonic()))
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
                body = await _read_body(response)
        except asyncio.TimeoutError:
            raise self._timeout_error(seconds, is_transient=True) from None
        except aiohttp.ClientConnectorError as error:
            self._refund()
            raise self._connection_error(error) from None
        except (aiohttp.ClientError, OSError) as error:
            raise self._connection_error(error) from None
        except ValueError as error:  # a URL or header that can't be sent, which the library would show whole
            raise self._error(f"the request can't be sent: {error}: check its configuration") from None
        # Answers tend to come together: everything else may go on before they are all decoded.
        await asyncio.sleep(0)
        return self._decode(response, body)

    def _refund(self) -> None:
        if self._quota is not None:
            self._quota.refund()

    def _decode(self, response: aiohttp.ClientResponse, body: bytes) -> Any:
        status = response.status
        if status in _REFUSED or status in self._service.more_refusals:
            self._refund()
            raise self._error(f"refused with HTTP {status}: {self._service.fix}", ToolStatus.REFUSED)
        if status == 429 or status >= 500:
            if status == 429:
                self._refund()
            raise ServiceError(
                f"{self._service.name}: HTTP {status}",
                ToolStatus.INFRASTRUCTURE_ERROR,
                is_transient=True,
                retry_after_seconds=retry_after(response.headers.get("Retry-After")),
            )
        if not 200 <= status < 300:
            raise self._error(f"HTTP {status}: {self._excerpt(body)}")
        if len(body) > _MOST_BYTES:
            raise self._error(f"an answer of more than {_MOST_BYTES >> 20} MB")
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise self._error(f"expected JSON, got {self._excerpt(body)}") from None

    def _timeout_error(self, seconds: float, is_transient: bool = False) -> ServiceError:
        # No `timeout`, which is for calls that are themselves too long: a search is not to blame for a slow service.
        return self._error(f"no answer within {seconds:.3g} s", is_transient=is_transient)

    def _connection_error(self, error: Exception) -> ServiceError:
        return self._error(f"no whole answer: {str(error) or type(error).__name__}", is_transient=True)

    def _error(
        self, text: str, status: ToolStatus = ToolStatus.INFRASTRUCTURE_ERROR, is_transient: bool = False
    ) -> ServiceError:
        return ServiceError(redact(f"{self._service.name}: {text}", self._service.secrets), status, is_transient)

    def _excerpt(self, body: bytes) -> str:
        # Redacted before it is cut, which could leave half of a secret that is not recognised.
        return repr(redact(body[:20_000].decode("utf-8", "replace"), self._service.secrets)[:200])


def _new_session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=_MOST_CONNECTIONS),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=True,
    )


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
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
