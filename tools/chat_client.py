"""One question, one answer, at temperature 0, over any OpenAI-compatible server's `/v1/chat/completions`."""

import os
from dataclasses import dataclass
from typing import Any

from arpo_tools.search.http import JsonClient, Patience, Request, Service, without_credentials
from arpo_tools.search.passage import SearchError
from arpo_tools.tool import ToolStatus


@dataclass(frozen=True)
class ChatServer:
    """Which server and model."""

    base_url: str
    """Up to `/v1`, which may be left out."""
    model: str
    key_variable: str | None = None
    """The environment variable that holds the server's key, if it wants one."""
    max_tokens: int = 512
    """Of an answer."""


class ChatClient:
    """Asks one model of one server."""

    def __init__(
        self, name: str, server: ChatServer, patience: Patience, refusals: frozenset[int] = frozenset()
    ) -> None:
        """
        Args:
            name: what the server is to the user, for error messages.
            refusals: HTTP statuses after which no later call will do better, beside 401, 402 and 403.

        Raises:
            ValueError: the key's variable is not set, or the base URL is none.
        """
        key = os.environ.get(server.key_variable, "").strip() if server.key_variable else ""
        if server.key_variable and not (key and key.isascii() and key.isprintable()):
            raise ValueError(f"{name}: the environment variable {server.key_variable} holds no key: set it")
        if not server.base_url.startswith(("http://", "https://")):
            shown = without_credentials(server.base_url)
            raise ValueError(f"{name}: base_url={shown!r}; expected http://host:port or https://host")
        self._name = name
        self._server = server
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        fix = f"check the key in {server.key_variable}" if key else "set key_variable to the variable of its key"
        if refusals:
            fix = f"check base_url {without_credentials(server.base_url)}, model {server.model}; {fix}"
        self._client = JsonClient(Service(name, key, fix, refusals), patience)

    async def ask(self, prompt: str) -> str:
        """Return the model's answer as it is, which may be empty.

        Raises:
            SearchError: there is none.
        """
        body = {
            "model": self._server.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self._server.max_tokens,
            "temperature": 0.0,
        }
        url = f"{self._server.base_url.rstrip('/').removesuffix('/v1')}/v1/chat/completions"
        return self._content(await self._client.fetch(Request("POST", url, self._headers, json=body)))

    def _content(self, answer: Any) -> str:
        try:
            content = answer["choices"][0]["message"]["content"]
            # A server that parses reasoning gives null where the tokens ran out before the answer.
            if not isinstance(content, str | None):
                raise TypeError(content)
        except (KeyError, IndexError, TypeError):
            raise SearchError(f"{self._name}: an answer without text", ToolStatus.INFRASTRUCTURE_ERROR) from None
        return content or ""
