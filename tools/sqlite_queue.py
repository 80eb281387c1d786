"""Groups the calls that wait for an SQLite file: one trip to its thread and one transaction for all of them.

A trip costs more than a small statement, and a transaction of one process keeps the others waiting. A write is
acknowledged after its group is committed.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from arpo_tools.loop_local import LoopLocal
from arpo_tools.sqlite_file import SqliteFile

_LARGEST_GROUP = 32
"""Calls of one trip: whoever awaits them goes on at the same moment, and the event loop must stay free for others."""

Action = Callable[[sqlite3.Connection], Any]


@dataclass
class _Call:
    action: Action
    is_write: bool
    answer: "asyncio.Future[Any]"


@dataclass
class _Line:
    """The calls of one event loop that wait, and the task that serves them."""

    waiting: list[_Call] = field(default_factory=list)
    server: "asyncio.Task[None] | None" = None


class SqliteQueue:
    """The way of coroutines to one file. An action begins a transaction only where none is under way."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file
        self._lines: LoopLocal[_Line] = LoopLocal(_Line)

    async def call(self, action: Action, is_write: bool) -> Any:
        """Return what `action` returns. When cancelled, `action` may still run.

        Raises:
            OSError, sqlite3.Error: what the file or `action` raises.
        """
        line = await self._lines.get()
        call = _Call(action, is_write, asyncio.get_running_loop().create_future())
        line.waiting.append(call)
        if line.server is None:
            line.server = asyncio.create_task(self._serve(line))
        return await call.answer

    async def _serve(self, line: _Line) -> None:
        calls: list[_Call] = []
        try:
            while line.waiting:
                calls, line.waiting = line.waiting[:_LARGEST_GROUP], line.waiting[_LARGEST_GROUP:]
                try:
                    outcomes = await self._file.run_in_thread(partial(_perform, calls))
                except Exception as error:  # the file can't be opened: everybody's answer
                    outcomes = [error] * len(calls)
                for call, outcome in zip(calls, outcomes, strict=True):
                    _give(call, outcome)
        finally:
            line.server = None
            for call in [*calls, *line.waiting]:
                call.answer.cancel()  # does nothing to those that have their answer


def _give(call: _Call, outcome: Any) -> None:
    if call.answer.done():
        return  # cancelled
    if isinstance(outcome, Exception):
        call.answer.set_exception(outcome)
    else:
        call.answer.set_result(outcome)


def _perform(calls: list[_Call], connection: sqlite3.Connection) -> list[Any]:
    """Return the result or the exception of each call."""
    writes = [call for call in calls if call.is_write]
    together = _together(connection, writes) if len(writes) > 1 else {}
    return [together[id(call)] if id(call) in together else _outcome(connection, call) for call in calls]


def _together(connection: sqlite3.Connection, writes: list[_Call]) -> dict[int, Any]:
    """Return the outcomes of writes in one transaction, or nothing if one of them spoilt it for the others."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        results = {id(call): call.action(connection) for call in writes}
        connection.execute("COMMIT")
        return results
    except Exception as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        # A locked file or a full disk is nobody's fault, and each would wait for it again.
        return {id(call): error for call in writes} if isinstance(error, sqlite3.OperationalError) else {}


def _outcome(connection: sqlite3.Connection, call: _Call) -> Any:
    try:
        return call.action(connection)
    except Exception as error:
        return error
