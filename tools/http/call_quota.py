"""The quota of calls to a service over all processes: calls a second, and paid calls altogether.

Both are counted in one SQLite file by a short transaction before each call, so unequal processes share what there is,
and the number of paid calls is never exceeded, also when processes are killed. What is not covered: a call that was
counted and then lost with its process stays counted.
"""

import asyncio
import logging
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from arpo_tools.http.service import ServiceError
from arpo_tools.sqlite.file import Layout, SqliteFile
from arpo_tools.sqlite.queue import SqliteQueue
from arpo_tools.tool import ToolStatus

logger = logging.getLogger(__name__)

_LAYOUT = Layout(
    application_id=int.from_bytes(b"ARPL", "big"),
    schema="""
    CREATE TABLE IF NOT EXISTS accounts (
        account TEXT PRIMARY KEY,
        paid_calls INTEGER NOT NULL,
        next_call REAL NOT NULL
    );
    CREATE TABLE IF NOT EXISTS clocks (
        account TEXT PRIMARY KEY,
        last_call REAL NOT NULL
    );
    """,
    synchronous="FULL",  # paid calls: the count must survive a power failure, too
    busy_seconds=30.0,
    journal="DELETE",  # a copy of the file must hold the count, whether or not its WAL was copied
    is_replaceable=False,  # a new file would begin to count at 0
)
LONGEST_QUEUE_SECONDS = 60.0
"""A call that would have to wait longer for its turn is not made."""
_MOST_SKEW_SECONDS = 1.0
"""Difference between the clocks of machines that share a file; a larger step back is a clock that was set."""


@dataclass(frozen=True)
class CallQuota:
    """The calls that a service may get; None is no limit."""

    calls_per_second: float | None = None
    max_paid_calls: int | None = None

    def __post_init__(self) -> None:
        if self.calls_per_second is not None and not 0 < self.calls_per_second < float("inf"):
            raise ValueError(f"calls_per_second={self.calls_per_second}; expected a positive number: change it")
        if self.max_paid_calls is not None and not 0 <= self.max_paid_calls < 1 << 60:
            raise ValueError(f"max_paid_calls={self.max_paid_calls}; expected a whole number from 0: change it")


class QuotaCounter:
    """The count of one account's calls against its quota, as seen by one process."""

    def __init__(self, path: str | Path, account: str, quota: CallQuota) -> None:
        """Open the file, making it and its folder if need be.

        Raises:
            OSError, sqlite3.Error, ForeignFileError: it can't be opened, is damaged, or is another kind of file.
        """
        self.account = account
        self.quota = quota
        self._file = SqliteFile(path, _LAYOUT)
        self._queue = SqliteQueue(self._file)  # calls that come together are counted by one trip to the disk

    async def acquire(self) -> None:
        """Count one call and wait for its turn.

        Raises:
            ServiceError: the paid calls are spent, the queue is too long, or nothing can be counted.
        """
        try:
            turn = await self._queue.call(self._count_in_transaction, is_write=True)
        except (OSError, sqlite3.Error) as error:
            message = f"no call is made, because {self._file.path} can't count it ({error}): repair or move the file"
            raise ServiceError(message, ToolStatus.INFRASTRUCTURE_ERROR) from error
        try:
            await asyncio.sleep(turn)
        except asyncio.CancelledError:
            self.refund()
            raise

    def refund(self) -> None:
        """Uncount a paid call that did not reach the service or was turned away by it. Does not wait."""
        if self.quota.max_paid_calls is None:
            return
        sql = "UPDATE accounts SET paid_calls = paid_calls - 1 WHERE account = ? AND paid_calls > 0"
        self._file.submit(lambda connection: connection.execute(sql, (self.account,)))

    def paid_calls(self) -> int:
        """Return the number of paid calls counted so far. Blocks."""
        sql = "SELECT paid_calls FROM accounts WHERE account = ?"
        rows = self._file.run(lambda connection: connection.execute(sql, (self.account,)).fetchall())
        return int(rows[0][0]) if rows else 0

    def _count_in_transaction(self, connection: sqlite3.Connection) -> float:
        """Count a call, in a transaction of its own unless one is under way, and return the seconds until its turn."""
        if connection.in_transaction:
            return self._count(connection)
        connection.execute("BEGIN IMMEDIATE")
        try:
            wait = self._count(connection)
        except BaseException:
            if connection.in_transaction:  # a full disk ends it by itself
                connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
        return wait

    def _count(self, connection: sqlite3.Connection) -> float:
        connection.execute("INSERT OR IGNORE INTO accounts VALUES (?, 0, 0)", (self.account,))
        sql = "SELECT paid_calls, next_call FROM accounts WHERE account = ?"
        [(paid_calls, next_call)] = connection.execute(sql, (self.account,)).fetchall()
        self._require_budget(paid_calls)
        now = time.time()
        wait, next_call = self._turn(self._on_this_clock(connection, next_call, now), now)
        sql = "UPDATE accounts SET paid_calls = paid_calls + 1, next_call = ? WHERE account = ?"
        connection.execute(sql, (next_call, self.account))
        connection.execute("INSERT OR REPLACE INTO clocks VALUES (?, ?)", (self.account, now))
        return wait

    def _on_this_clock(self, connection: sqlite3.Connection, next_call: float, now: float) -> float:
        """Return the earliest time of the next call, set back by as much as the clock was since the last one."""
        rows = connection.execute("SELECT last_call FROM clocks WHERE account = ?", (self.account,)).fetchall()
        step_back = rows[0][0] - now if rows else 0.0
        return next_call - step_back if step_back > _MOST_SKEW_SECONDS else next_call

    def _require_budget(self, paid_calls: int) -> None:
        most = self.quota.max_paid_calls
        if most is not None and paid_calls >= most:
            raise ServiceError(
                f"the {most} paid calls of this run are spent (max_paid_calls): raise it to go on; {self._file.path} "
                f"keeps the count",
                ToolStatus.BUDGET,
            )

    def _turn(self, next_call: float, now: float) -> tuple[float, float]:
        """Return the wait of this call and the earliest time of the next one, in seconds since 1970."""
        if self.quota.calls_per_second is None:
            return 0.0, next_call
        interval = 1.0 / self.quota.calls_per_second
        if next_call > now + LONGEST_QUEUE_SECONDS + interval:
            next_call = now  # no call can be that far ahead: the clock was set back
        # A second's worth of calls may come at once after a pause.
        turn = max(next_call, now - 1.0 + interval) if interval < 1.0 else max(next_call, now)
        if turn - now > LONGEST_QUEUE_SECONDS:
            raise ServiceError(
                f"{turn - now:.0f} s of calls are waiting already (calls_per_second="
                f"{self.quota.calls_per_second:g}): raise it or ask for less",
                ToolStatus.INFRASTRUCTURE_ERROR,
            )
        return max(0.0, turn - now), turn + interval
