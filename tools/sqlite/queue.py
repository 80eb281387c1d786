"""Groups the calls that wait for an SQLite file: one hand-over to its thread and one transaction for all of them.

A hand-over costs more than a small statement, and a transaction of one process keeps the others waiting. A write is
acknowledged after its group is committed.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from arpo_tools.loop_local import LoopLocal
from arpo_tools.sqlite.file import SqliteFile

_LARGEST_GROUP = 32
"""Calls of one group: whoever awaits them goes on at the same moment, and the event loop must stay free for others."""

Action = Callable[[sqlite3.Connection], Any]


@dataclass
class _QueuedCall:
    action: Action
    is_write: bool
    answer: "asyncio.Future[Any]"


@dataclass
class _LoopQueue:
    """The calls of one event loop that wait, and the task that serves them."""

    waiting: list[_QueuedCall] = field(default_factory=list)
    server: "asyncio.Task[None] | None" = None


class SqliteQueue:
    """The queue of coroutines' calls to one file. An action begins a transaction only where none is under way."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file
        self._lines: LoopLocal[_LoopQueue] = LoopLocal(_LoopQueue)

    async def call(self, action: Action, is_write: bool) -> Any:
        """Return what `action` returns. When cancelled, `action` may still run.

        Raises:
            OSError, sqlite3.Error: what the file or `action` raises.
        """
        line = await self._lines.get()
        call = _QueuedCall(action, is_write, asyncio.get_running_loop().create_future())
        line.waiting.append(call)
        if line.server is None:
            line.server = asyncio.create_task(self._serve(line))
        return await call.answer

    async def _serve(self, line: _LoopQueue) -> None:
        calls: list[_QueuedCall] = []
        try:
            while line.waiting:
                calls, line.waiting = line.waiting[:_LARGEST_GROUP], line.waiting[_LARGEST_GROUP:]
                try:
                    outcomes = await self._file.run_in_thread(partial(_perform, calls))
                except Exception as error:  # the file can't be opened: the outcome of every call
                    outcomes = [error] * len(calls)
                for call, outcome in zip(calls, outcomes, strict=True):
                    _set_outcome(call, outcome)
        finally:
            line.server = None
            for call in [*calls, *line.waiting]:
                call.answer.cancel()  # does nothing to those that have their answer


def _set_outcome(call: _QueuedCall, outcome: Any) -> None:
    if call.answer.done():
        return  # cancelled
    if isinstance(outcome, Exception):
        call.answer.set_exception(outcome)
    else:
        call.answer.set_result(outcome)


def _perform(calls: list[_QueuedCall], connection: sqlite3.Connection) -> list[Any]:
    """Return the result or the exception of each call."""
    writes = [call for call in calls if call.is_write]
    together = _run_in_one_transaction(connection, writes) if len(writes) > 1 else {}
    return [together[id(call)] if id(call) in together else _outcome(connection, call) for call in calls]


def _run_in_one_transaction(connection: sqlite3.Connection, writes: list[_QueuedCall]) -> dict[int, Any]:
    """Return the outcomes of writes in one transaction, or nothing if one of them failed."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        results = {id(call): call.action(connection) for call in writes}
        connection.execute("COMMIT")
        return results
    except Exception as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        # A locked file or a full disk is not one call's fault, and each would wait for it again.
        return {id(call): error for call in writes} if isinstance(error, sqlite3.OperationalError) else {}


def _outcome(connection: sqlite3.Connection, call: _QueuedCall) -> Any:
    try:
        return call.action(connection)
    except Exception as error:
        return error
