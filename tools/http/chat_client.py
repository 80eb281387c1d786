"""A client for single questions at temperature 0, over any OpenAI-compatible server's `/v1/chat/completions`."""

import os
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from arpo_tools.http.json_client import JsonClient
from arpo_tools.http.retry import RetryPolicy
from arpo_tools.http.service import HttpRequest, Service, ServiceError, url_at
from arpo_tools.redaction import Secrets, is_web_url, without_credentials
from arpo_tools.tool import ToolStatus


@dataclass(frozen=True)
class ChatServer:
    """A model on an OpenAI-compatible server."""

    base_url: str = field(repr=False)
    """Up to `/v1`, which may be left out."""
    model: str
    key_variable: str | None = None
    """The environment variable that holds the server's key, if it wants one."""
    max_tokens: int = 512
    """Tokens of an answer at most."""


class ChatClient:
    """A client of one model on one server."""

    def __init__(
        self, name: str, server: ChatServer, policy: RetryPolicy, refusals: frozenset[int] = frozenset()
    ) -> None:
        """
        Args:
            name: the server's role, as error messages name it.
            refusals: HTTP statuses after which no later call will do better, beside 401, 402 and 403.

        Raises:
            ValueError: the key's variable is not set, or the base URL is not one of http or https.
        """
        key = os.environ.get(server.key_variable, "").strip() if server.key_variable else ""
        if server.key_variable and not (key and key.isascii() and key.isprintable()):
            raise ValueError(f"{name}: the environment variable {server.key_variable} holds no key: set it")
        if not is_web_url(server.base_url):
            shown = without_credentials(server.base_url)
            raise ValueError(f"{name}: base_url={shown!r}; expected http://host:port or https://host")
        if key and "@" in urlsplit(server.base_url).netloc:
            shown = without_credentials(server.base_url)
            raise ValueError(
                f"{name}: base_url={shown!r} holds a user name beside the key in {server.key_variable}; "
                "one request can't send both: remove one"
            )
        self._name = name
        self._server = server
        self._secrets = Secrets.of_service(server.base_url, [key])
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        fix = f"check the key in {server.key_variable}" if key else "set key_variable to the variable of its key"
        if refusals:
            fix = f"check base_url {without_credentials(server.base_url)}, model {server.model}; {fix}"
        self._client = JsonClient(Service(name, self._secrets, fix, refusals), policy)

    async def ask(self, prompt: str) -> str:
        """Return the model's answer as it is, which may be empty.

        Raises:
            ServiceError: there is no answer.
        """
        body = {
            "model": self._server.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self._server.max_tokens,
            "temperature": 0.0,
        }
        parts = urlsplit(self._server.base_url)
        base_url = parts._replace(path=parts.path.rstrip("/").removesuffix("/v1")).geturl()
        url = url_at(base_url, "/v1/chat/completions")
        return self._content(await self._client.fetch(HttpRequest("POST", url, self._headers, json=body)))

    def _content(self, answer: Any) -> str:
        try:
            content = answer["choices"][0]["message"]["content"]
            # A server that parses reasoning gives null where the tokens ran out before the answer.
            if not isinstance(content, str | None):
                raise TypeError(content)
        except (KeyError, IndexError, TypeError):
            raise ServiceError(f"{self._name}: an answer without text", ToolStatus.INFRASTRUCTURE_ERROR) from None
        # JSON can bring lone surrogates, which no tokenizer takes.
        return self._secrets.redact_content((content or "").encode("utf-8", "replace").decode())
