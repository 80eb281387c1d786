"""Where an MCP server is, and how its streams are opened."""

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx2
from mcp import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from arpo_tools.redaction import without_credentials

SESSION_HEADER = "mcp-session-id"

# They log each line of a server that is no message with a traceback; what comes of it is told by the calls.
for _name in ("mcp.client.stdio", "mcp.client.streamable_http"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Limits:
    """What a server may take."""

    call_seconds: float = 30.0
    """Of one call."""
    start_seconds: float = 30.0
    """Of a start with its handshake."""
    max_result_bytes: int = 10_000_000
    """Of one answer over HTTP."""


@dataclass(frozen=True)
class Address:
    """A command that is run and spoken to by its pipes, or a URL."""

    command: str | None = None
    args: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict, repr=False)
    """Beside what the protocol lets a server inherit (HOME, LOGNAME, PATH, SHELL, TERM, USER)."""
    cwd: str | None = None
    url: str | None = None
    headers: dict[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if (self.command is None) == (self.url is None):
            raise ValueError(
                f"command={self.command!r}, url={self.url!r}; expected one of them: the command that starts the "
                f"server, or the URL where it listens"
            )

    @property
    def label(self) -> str:
        """What it is called in messages."""
        return without_credentials(self.url) if self.url is not None else " ".join([str(self.command), *self.args])

    @asynccontextmanager
    async def open(self, limits: Limits, seen: "Seen") -> AsyncIterator[Any]:
        """Start or reach the server, and yield the streams to it.

        Args:
            limits: on the size of an answer.
            seen: told what the HTTP answers say.
        """
        if self.url is None:
            parameters = StdioServerParameters(
                command=str(self.command), args=self.args, env=self.env or None, cwd=self.cwd
            )
            with open(os.devnull, "w") as nowhere:
                async with stdio_client(parameters, errlog=nowhere) as streams:
                    yield streams
            return
        timeout = httpx2.Timeout(limits.start_seconds, read=None)  # a call has its own limit
        hooks: dict[str, list[Any]] = {"response": [seen.note, partial(_limit, limits.max_result_bytes)]}
        async with (
            httpx2.AsyncClient(headers=self.headers, timeout=timeout, event_hooks=hooks) as client,
            streamable_http_client(self.url, http_client=client, max_sse_event_size=limits.max_result_bytes) as streams,
        ):
            yield streams


@dataclass
class Seen:
    """What a server's HTTP answers have said beside the protocol."""

    has_session: bool = False
    """It has given a session of its own."""
    refusal: int | None = None
    """The status of an answer that refuses the key."""

    async def note(self, response: httpx2.Response) -> None:
        """Read an answer's status and headers."""
        self.has_session = self.has_session or SESSION_HEADER in response.headers
        if response.status_code in (401, 403):
            self.refusal = response.status_code


async def _limit(most: int, response: httpx2.Response) -> None:
    """End an answer that is no stream of events above a number of bytes: the library would read all of it."""
    if not response.headers.get("content-type", "").startswith("text/event-stream"):
        response.stream = _LimitedStream(response.stream, most)


class _LimitedStream(httpx2.AsyncByteStream):
    """Ends a body above a number of bytes."""

    def __init__(self, inner: Any, most: int) -> None:
        self._inner, self._most = inner, most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._inner:
            size += len(chunk)
            if size > self._most:
                raise httpx2.StreamError(f"the answer is larger than {self._most} bytes (max_result_bytes)")
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()
