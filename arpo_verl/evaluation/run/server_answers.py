"""Validates a server's answers: bounded bodies, the types of the API, and text that can be shown.

A server may send anything. An answer that is not a completion raises one of the errors here, never another exception.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

import aiohttp

_BYTES_AT_A_TIME = 1 << 16
_MOST_SHOWN = 500
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_UNFINISHED = ("abort", "error")
"""Finish reasons of vLLM for answers that it did not bring to an end."""


class ServerFailed(Exception):
    """The server gave no usable answer, and trying again did not help."""

    retry_after_seconds: float | None = None


class ServerMisbehaved(ServerFailed):
    """The server's answer violates the request, and a retry would not help."""


class ServerRefused(Exception):
    """The server understood the request and will not answer it."""

    def __init__(self, message: str, is_for_all: bool) -> None:
        super().__init__(message)
        self.is_for_all = is_for_all


@dataclass(frozen=True)
class Completion:
    """One answer of the completions API."""

    text: str
    token_ids: list[int] | None
    finish_reason: str | None
    stop_reason: str | int | None
    """The stop string or the token id that ended it, from servers that say so."""


async def read_body(response: aiohttp.ClientResponse, most_bytes: int) -> bytes | None:
    """Return the decoded body, or None where it has more than `most_bytes`; no more than that is read."""
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_chunked(_BYTES_AT_A_TIME):
        size += len(part)
        if size > most_bytes:
            response.close()  # the rest must not be read to reuse the connection
            return None
        parts.append(part)
    return b"".join(parts)


def completion_of(answer: Any) -> Completion:
    """Return the completion in a decoded answer.

    Raises:
        ServerFailed: there is none, or a part of it has a wrong type.
    """
    try:
        choice = answer["choices"][0]
        text, token_ids = choice["text"], choice.get("token_ids")
        reason, stop = choice.get("finish_reason"), choice.get("stop_reason")
    except (TypeError, KeyError, IndexError, AttributeError):
        raise ServerFailed(f"the server's answer is no completion: {printable(str(answer), 200)!r}") from None
    if not isinstance(text, (str, type(None))):
        raise ServerFailed(f"the server's `text` is {printable(str(text), 200)!r}; expected text")
    if token_ids is not None and not (isinstance(token_ids, list) and all(type(one) is int for one in token_ids)):
        raise ServerFailed(
            f"the server's `token_ids` are {printable(str(token_ids), 200)!r}; expected a list of integers"
        )
    if reason in _UNFINISHED:
        raise ServerFailed(f"the server gave the answer up: `finish_reason` is {reason!r}; expected stop or length")
    return Completion(
        _HALF_PAIR.sub("\N{REPLACEMENT CHARACTER}", text or ""),
        token_ids,
        reason if isinstance(reason, str) else None,
        stop if isinstance(stop, str) or type(stop) is int else None,
    )


def check_token_ids(token_ids: list[int] | None, max_tokens: int, vocabulary: int | None) -> None:
    """Check the token ids of an answer.

    Raises:
        ServerMisbehaved: there are too many, or one is no token of the model.
    """
    if token_ids is None:
        return
    if len(token_ids) > max_tokens:
        raise ServerMisbehaved(
            f"the server gave {len(token_ids)} tokens; expected at most max_tokens={max_tokens}, as it was asked: it "
            f"does not keep to that limit"
        )
    strange = next((one for one in token_ids if one < 0 or (vocabulary is not None and one >= vocabulary)), None)
    if strange is not None:
        below = "" if vocabulary is None else f" below {vocabulary}, the tokens of the model"
        raise ServerMisbehaved(
            f"the server gave the token id {str(strange)[:40]}; expected ids from 0{below}: is "
            f"actor_rollout_ref.model.path the model that it serves?"
        )


def message_in(body: bytes) -> str:
    """Return the message of an error's body, or the start of the body."""
    try:
        values = json.loads(body)
        error = values.get("error", values)
        message = error["message"] if isinstance(error, dict) else error
    except (ValueError, RecursionError, KeyError, AttributeError):
        message = body.decode("utf-8", "replace")
    return printable(str(message)) or "no reason given"


def printable(text: str, most: int = _MOST_SHOWN) -> str:
    """Return the beginning of a text in one line, without control characters."""
    return "".join(one if one.isprintable() else " " for one in text[:most]).strip()
