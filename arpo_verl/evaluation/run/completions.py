"""`POST /v1/completions` of an OpenAI-compatible server: token ids in, token ids or text out.

Tried again: no connection, time-outs, 429 (as `Retry-After` says), 5xx, answers that are cut short or no completion.
Not tried again: every other status, redirects among them, and answers beyond what was asked for. Bodies are read up to
a limit. The key comes from OPENAI_API_KEY and goes into no file and no message.
"""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import stamina

from arpo_tools.http.retry import retry_after
from arpo_tools.redaction import without_credentials
from arpo_verl.evaluation.run.server_answers import (
    Completion,
    ServerFailed,
    ServerMisbehaved,
    ServerRefused,
    check_token_ids,
    completion_of,
    message_in,
    printable,
    read_body,
)

REFUSES_ONE_REQUEST = frozenset({400, 413, 422})
"""Statuses that refuse this request alone; any other refusal would meet all requests."""
_SMALL_BODY = 1 << 20
"""The number of bytes of an answer beside its tokens, and of the list of models."""
_BYTES_OF_A_TOKEN = 256
"""The number of bytes of a token: its text, escaped, and its id; far more than any tokenizer's mean."""
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Endpoint:
    """A model on a server."""

    base_url: str
    """The server's URL without `/v1`."""
    model: str
    api_key: str | None = field(default=None, repr=False)

    @classmethod
    def from_url(cls, base_url: str, model: str, api_key: str | None = None) -> "Endpoint":
        """Return the endpoint of a URL as users write it, with or without `/v1`.

        Raises:
            ValueError: it is not an http URL.
        """
        parts = urlsplit(base_url)
        is_web = parts.scheme in ("http", "https") and parts.hostname and _has_good_port(base_url)
        if not is_web or parts.query or parts.fragment:
            raise ValueError(
                f"--base-url {without_credentials(base_url)!r}; expected something like http://host:8000: correct it"
            )
        return cls(base_url.rstrip("/").removesuffix("/v1").rstrip("/"), model, api_key or None)

    @property
    def public_url(self) -> str:
        """The URL without user name and password."""
        parts = urlsplit(self.base_url)
        host = parts.hostname if ":" not in (parts.hostname or "") else f"[{parts.hostname}]"
        return urlunsplit((parts.scheme, f"{host}:{parts.port}" if parts.port else str(host), parts.path, "", ""))


def _has_good_port(url: str) -> bool:
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


@dataclass(frozen=True)
class RequestTimeouts:
    """The time-outs of requests to the server."""

    request_seconds: float = 1800.0
    """Time of one attempt at a request."""
    retry_seconds: float = 300.0
    """Time from the first failure of a request to the start of its last attempt."""
    check_seconds: float = 10.0
    """Time of each request before the run begins."""


@dataclass(frozen=True)
class ServerCapabilities:
    """The capabilities of the server, found out before the run begins."""

    gives_token_ids: bool
    """Whether it honours vLLM's `return_token_ids`."""
    context_length: int | None
    """vLLM's `max_model_len`; None where the server does not say."""


class CompletionServer:
    """The client. An asynchronous context manager, because it keeps connections open."""

    def __init__(
        self, endpoint: Endpoint, timeouts: RequestTimeouts | None = None, vocabulary: int | None = None
    ) -> None:
        """
        Args:
            endpoint: the model and its server.
            timeouts: the time-outs of requests.
            vocabulary: the number of the model's tokens; None: ids are not compared with it.
        """
        self._endpoint = endpoint
        self._vocabulary = vocabulary
        self._timeouts = timeouts or RequestTimeouts()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "CompletionServer":
        key = self._endpoint.api_key
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # the runner limits what is in flight
            headers={"Authorization": f"Bearer {key}"} if key else {},
            cookie_jar=aiohttp.DummyCookieJar(),
            # A proxy can't reach what listens on this machine alone.
            trust_env=urlsplit(self._endpoint.base_url).hostname not in _LOOPBACK,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def find_model(self) -> int | None:
        """Return the model's context length in tokens, or None where the server does not say (vLLM does).

        Raises:
            ServerFailed: there is no server, or it is not working.
            ServerRefused: it does not know the key or the model.
        """
        try:
            card = self._model_entry(await self._request("GET", "/v1/models", self._timeouts.check_seconds))
        except ServerFailed as error:
            raise ServerFailed(f"{error}; expected a running server: start it, or correct --base-url") from None
        limit = card.get("max_model_len")
        return limit if type(limit) is int and limit > 0 else None

    async def probe(self, prompt: list[int], parameters: Mapping[str, Any]) -> bool:
        """Ask for one token as the run will ask; return whether the server gives token ids.

        Raises:
            ServerFailed: it does not answer.
            ServerRefused: it does not take token ids or a parameter.
        """
        answer = await self._attempt(self._body(prompt, {**parameters, "max_tokens": 1, "return_token_ids": True}))
        return answer.token_ids is not None

    async def complete(self, prompt: list[int], parameters: Mapping[str, Any]) -> Completion:
        """Continue token ids.

        Args:
            prompt: the ids so far.
            parameters: the API's, `max_tokens` among them.

        Raises:
            ServerFailed: no attempt that began within `retry_seconds` of the first failure got an answer.
            ServerRefused: the server will not answer this request.
        """
        body = self._body(prompt, parameters)
        try:
            return await self._attempt(body)
        except ServerFailed as error:
            first = error
        deadline = time.monotonic() + self._timeouts.retry_seconds

        def delay(error: Exception) -> bool | float:
            if not isinstance(error, ServerFailed) or isinstance(error, ServerMisbehaved):
                return False
            wait = error.retry_after_seconds or 0.0
            return (wait or True) if time.monotonic() + wait < deadline else False

        # Not stamina's own time-out, which would count the time that a good long answer takes.
        retries = stamina.retry_context(on=delay, attempts=None, timeout=None, wait_initial=0.5, wait_max=20.0)
        async for attempt in retries:
            with attempt:
                if attempt.num == 1:
                    raise first
                return await self._attempt(body)
        raise AssertionError("stamina ends with an answer or an error")

    async def _attempt(self, body: dict[str, Any]) -> Completion:
        answer = completion_of(await self._request("POST", "/v1/completions", self._timeouts.request_seconds, body))
        check_token_ids(answer.token_ids, body["max_tokens"], self._vocabulary)
        return answer

    def _body(self, prompt: list[int], parameters: Mapping[str, Any]) -> dict[str, Any]:
        return {"model": self._endpoint.model, "prompt": prompt, "n": 1, "stream": False, **parameters}

    def _model_entry(self, answer: Any) -> Mapping[str, Any]:
        """Return the entry of the endpoint's model in the list of models."""
        cards = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(cards, list) or not all(isinstance(card, dict) for card in cards):
            raise ServerFailed(f"{self._endpoint.public_url}/v1/models answered {printable(str(answer), 200)!r}")
        known = [str(card.get("id")) for card in cards]
        if self._endpoint.model not in known:
            raise ServerRefused(
                f"{self._endpoint.public_url} does not serve {self._endpoint.model!r}; expected one of "
                f"{printable(', '.join(known)) or 'no model at all'}: correct --model",
                is_for_all=True,
            )
        return dict(cards[known.index(self._endpoint.model)])

    async def _request(self, method: str, path: str, seconds: float, body: dict[str, Any] | None = None) -> Any:
        assert self._session is not None
        where = self._endpoint.public_url
        most = _SMALL_BODY + (0 if body is None else _BYTES_OF_A_TOKEN * (body["max_tokens"] + len(body["prompt"])))
        try:
            async with self._session.request(
                method,
                self._endpoint.base_url + path,
                json=body,
                timeout=aiohttp.ClientTimeout(total=seconds),
                allow_redirects=False,  # they would take the key to another host
            ) as response:
                content = await read_body(response, most)
        except asyncio.TimeoutError:
            raise ServerFailed(f"{where} gave no answer within {seconds:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:  # a ValueError: a host that no name can be
            said = self._redact(printable(str(error)) or type(error).__name__)
            raise ServerFailed(f"{where} gave no whole answer: {said}") from None
        if response.status != 200:
            raise self._status_error(response, b"" if content is None else content)
        if content is None:
            raise ServerMisbehaved(
                f"{where} gave more than {most} bytes; expected what was asked for: is it a server of /v1{path[3:]}?"
            )
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            said = self._redact(printable(content[:200].decode("utf-8", "replace")))
            raise ServerFailed(f"{where} answered with invalid JSON: {said!r}") from None

    def _redact(self, text: str) -> str:
        """Return a text of the server's without the key, and without the URL's user name and password."""
        secrets = (self._endpoint.api_key, urlsplit(self._endpoint.base_url).netloc.rpartition("@")[0])
        for secret in filter(None, secrets):
            text = text.replace(secret, "***")
        return text

    def _status_error(self, response: aiohttp.ClientResponse, content: bytes) -> Exception:
        status, where = response.status, self._endpoint.public_url
        said = self._redact(message_in(content))
        if 300 <= status < 400:
            place = self._redact(printable(without_credentials(response.headers.get("Location", "nowhere"))))
            return ServerRefused(
                f"{where} redirects to {place} (HTTP {status}), which is not followed, as it would take the key there; "
                f"expected an answer: give the address itself as --base-url",
                is_for_all=True,
            )
        if status in (408, 429) or status >= 500 or status < 300:
            failure = ServerFailed(f"{where} answered HTTP {status}: {said}")
            failure.retry_after_seconds = retry_after(response.headers.get("Retry-After"))
            return failure
        advice = {
            401: ": set OPENAI_API_KEY to a key that it knows",
            403: ": set OPENAI_API_KEY to a key that may do this",
            404: ": correct --base-url or --model",
        }.get(status, "")
        return ServerRefused(
            f"{where} refused with HTTP {status}: {said}{advice}", is_for_all=status not in REFUSES_ONE_REQUEST
        )
