"""Bounds how many requests and tool calls of one process are in flight, whatever the number of prompts."""

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal
from weakref import WeakKeyDictionary

from arpo_verl.rollout.calls import NO_LIMIT

Kind = Literal["request", "tool call"]

_semaphores: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[Kind, int], asyncio.Semaphore]] = (
    WeakKeyDictionary()
)
"""By event loop, because a semaphore belongs to the one that it was first waited for in."""


def slot(kind: Kind, at_most: int | None) -> AbstractAsyncContextManager[Any]:
    """Return what to hold while one of a kind is in flight; all callers in an event loop share `at_most` places."""
    if at_most is None:
        return NO_LIMIT
    of_loop = _semaphores.setdefault(asyncio.get_running_loop(), {})
    return of_loop.setdefault((kind, at_most), asyncio.Semaphore(at_most))
