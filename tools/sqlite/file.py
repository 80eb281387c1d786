"""An SQLite file that many processes share: opened once a process, checked, set aside when damaged.

What is covered: processes that fork, are killed, or open the file at the same moment; files that are damaged, belong to
another program or a later version, lie on a network file system, or can only be read. What is not covered: a machine
that loses its power may lose the last moments of a file with `synchronous="NORMAL"`, though not its consistency; a copy
of a file in use that lacks its `-wal` lacks the last answers, unless `journal="DELETE"`.
"""

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import shutil
import sqlite3
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from arpo_tools.sqlite.file_system import network_file_system

logger = logging.getLogger(__name__)

T = TypeVar("T")

_CHECK_SECONDS = 5.0
"""A larger file is checked only in part: training must start."""
_COMPANIONS = ("", "-wal", "-shm", "-journal")


class ForeignFileError(ValueError):
    """The file is a sound SQLite file of another program or of a later version."""


@dataclass(frozen=True)
class Layout:
    """The layout of one kind of file: its mark, its schema, and how it is written."""

    application_id: int
    """Four letters that tell our files from others, see SQLite's `PRAGMA application_id`."""
    schema: str
    """Statements that change nothing when they are run again."""
    version: int = 1
    """Version of the schema, kept as `PRAGMA user_version`; a file of a later one is refused."""
    journal: str = "WAL"
    """`DELETE` keeps all that is committed in the one file, at the price of two more writes to the disk."""
    synchronous: str = "NORMAL"
    busy_seconds: float = 5.0
    """How long a call waits for another process's transaction."""
    is_replaceable: bool = True
    """Whether a damaged file may be set aside and a new one begun; otherwise the damage is raised."""


class SqliteFile:
    """One file; each process has one connection to it, used by one thread at a time."""

    def __init__(self, path: str | Path, layout: Layout, is_read_only: bool = False) -> None:
        """Open the file, making it and its folder if need be.

        Args:
            is_read_only: write nothing into the file; it must exist and is not checked.

        Raises:
            ForeignFileError: it is another program's or a later version's.
            OSError, sqlite3.Error: the file can't be opened or made.
        """
        self.path = Path(path).absolute()
        self._layout = layout
        self.is_read_only = is_read_only
        self._journal = "" if is_read_only else self._choose_journal()
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._thread: ThreadPoolExecutor | None = None
        _files.add(self)
        self.run(lambda connection: None)

    def run(self, action: Callable[[sqlite3.Connection], T]) -> T:
        """Call `action` with the connection, which is in autocommit mode. Blocks.

        Raises:
            OSError, sqlite3.Error: what the file or `action` raises.
        """
        with self._lock:
            if self._connection is not None and self._identity != self._identity_of_path():
                self._close_replaced()
            if self._connection is None:
                self._connection = self._open()
            return action(self._connection)

    async def run_in_thread(self, action: Callable[[sqlite3.Connection], T]) -> T:
        """Do the same as `run` without blocking the event loop. When cancelled, `action` may still run to its end."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="arpo-sqlite")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.run, action)

    def submit(self, action: Callable[[sqlite3.Connection], object]) -> None:
        """Run `action` in the thread without waiting for it."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="arpo-sqlite")
        self._thread.submit(self.run, action)

    def reopen(self) -> None:
        """Close and open again, which checks the file and sets it aside if it is damaged.

        Raises:
            OSError, sqlite3.Error: it can't be opened.
        """
        with self._lock:
            self._close()
            self._connection = self._open()

    def close(self) -> None:
        """Close this process's connection; a later call opens it again."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _close_replaced(self) -> None:
        """Close a file that is no longer at its path, so that all processes write to the one that is.

        Raises:
            OSError: the file may not be replaced.
        """
        if not self._layout.is_replaceable:
            raise FileNotFoundError(f"{self.path} was removed or replaced during the run")
        logger.warning("%s was removed or set aside by another process: opening the file that is there now", self.path)
        self._close()

    def _identity_of_path(self) -> tuple[int, int] | None:
        try:
            state = self.path.stat()
        except FileNotFoundError:
            return None
        return state.st_dev, state.st_ino

    def _after_fork(self) -> None:
        """Start the child without connection, lock and thread: all three belong to its parent."""
        # Kept open: closing it here would drop the file's locks and could delete the WAL that the parent writes.
        _inherited.append(self._connection)
        self._connection = self._thread = None
        self._lock = threading.Lock()

    def _choose_journal(self) -> str:
        kind = network_file_system(self.path.parent)
        if kind is None:
            return self._layout.journal
        logger.warning(
            "%s is on the network file system %s: using a rollback journal, which is slower and trusts the server's "
            "file locks; give a path on a local disk",
            self.path,
            kind,
        )
        return "DELETE"

    def _open(self) -> sqlite3.Connection:
        if self.is_read_only:
            return self._connect_for_reading()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _exclusive_lock(self.path):
            try:
                connection = self._connect()
            except sqlite3.DatabaseError as error:
                if not is_damage(error) or not self._layout.is_replaceable:
                    raise
                connection = self._replace_damaged(str(error))
        # Without the lock, so that many processes check at the same time.
        if (fault := fault_of(connection)) is None:
            return connection
        connection.close()
        if not self._layout.is_replaceable:
            raise sqlite3.DatabaseError(fault)
        with _exclusive_lock(self.path):
            return self._connect_if_sound() or self._replace_damaged(fault)

    def _connect_for_reading(self) -> sqlite3.Connection:
        # In a folder that can't be written there can be no writer either, and SQLite could not make the files that WAL
        # needs. What a killed writer has left in its WAL is seen in a copy.
        path, mode = self.path, "mode=ro"
        if not os.access(self.path.parent, os.W_OK):
            path, mode = (self._copy_with_wal(), "mode=ro") if self._has_wal() else (self.path, "immutable=1")
        connection = sqlite3.connect(f"{path.as_uri()}?{mode}", uri=True, isolation_level=None, check_same_thread=False)
        try:
            self._identity = self._identity_of_path()
            if self._require_ours(connection):
                raise ForeignFileError(f"{self.path} holds nothing: give another path")
        except BaseException:
            connection.close()
            raise
        return connection

    def _has_wal(self) -> bool:
        wal = Path(f"{self.path}-wal")
        return wal.exists() and wal.stat().st_size > 0

    def _copy_with_wal(self) -> Path:
        """Return a copy of the file and its WAL in the temporary directory."""
        self._copy = tempfile.TemporaryDirectory(prefix="arpo-sqlite-")
        for companion in ("", "-wal"):
            shutil.copy(f"{self.path}{companion}", self._copy.name)
        return Path(self._copy.name, self.path.name)

    def _connect_if_sound(self) -> sqlite3.Connection | None:
        """Return a connection if another process has set the damaged file aside in the meantime, else None."""
        try:
            connection = self._connect()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            return None
        if fault_of(connection) is None:
            return connection
        connection.close()
        return None

    def _replace_damaged(self, fault: str) -> sqlite3.Connection:
        aside = _set_aside(self.path)
        logger.error("%s is damaged (%s): it was renamed to %s and a new file begun", self.path, fault, aside)
        return self._connect()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=self._layout.busy_seconds, isolation_level=None, check_same_thread=False
        )
        try:
            is_new = self._require_ours(connection)
            connection.execute(f"PRAGMA journal_mode={self._journal}")
            connection.execute(f"PRAGMA synchronous={self._layout.synchronous}")
            connection.execute("PRAGMA journal_size_limit=67108864")  # 64 MiB: a WAL otherwise keeps its largest size
            if is_new:
                connection.execute(f"PRAGMA application_id={self._layout.application_id}")
            connection.executescript(self._layout.schema)
            if connection.execute("PRAGMA user_version").fetchone()[0] != self._layout.version:
                connection.execute(f"PRAGMA user_version={self._layout.version}")
            self._identity = self._identity_of_path()  # under the lock that setting aside takes, too
        except BaseException:
            connection.close()
            raise
        return connection

    def _require_ours(self, connection: sqlite3.Connection) -> bool:
        """Return whether the file is still empty."""
        [(application_id,)] = connection.execute("PRAGMA application_id").fetchall()
        [(tables,)] = connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
        if tables and application_id != self._layout.application_id:
            raise ForeignFileError(
                f"{self.path} is an SQLite file of another kind (application_id {application_id:#x}; expected "
                f"{self._layout.application_id:#x}): give another path"
            )
        [(version,)] = connection.execute("PRAGMA user_version").fetchall()
        if version > self._layout.version or (tables and _has_other_columns(connection, self._layout.schema)):
            raise ForeignFileError(
                f"{self.path} was written by a later version of this package (schema {version}; expected at most "
                f"{self._layout.version}): update the package or give another path"
            )
        return not tables


def _has_other_columns(connection: sqlite3.Connection, schema: str) -> bool:
    """Tell whether a table of the schema has other columns in the file."""
    with contextlib.closing(sqlite3.connect(":memory:")) as expected:
        expected.executescript(schema)
        tables = [name for (name,) in expected.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found = {table: _columns(connection, table) for table in tables}
        return any(columns and columns != _columns(expected, table) for table, columns in found.items())


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")}


_files: "weakref.WeakSet[SqliteFile]" = weakref.WeakSet()
_inherited: list[sqlite3.Connection | None] = []


def _after_fork_in_child() -> None:
    for file in list(_files):
        file._after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)


def is_damage(error: sqlite3.Error) -> bool:
    """Tell damage from what may pass: locks, a full disk, missing rights are all `OperationalError`."""
    return type(error) is sqlite3.DatabaseError


def fault_of(connection: sqlite3.Connection) -> str | None:
    """Return what `PRAGMA quick_check` finds within the time that it has."""
    deadline = time.monotonic() + _CHECK_SECONDS
    connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
    try:
        [(verdict,), *_] = connection.execute("PRAGMA quick_check(1)").fetchall()
    except sqlite3.OperationalError:
        return None  # out of time, or locked: neither is damage
    except sqlite3.DatabaseError as error:
        return str(error)
    finally:
        connection.set_progress_handler(None, 0)
    return None if verdict == "ok" else str(verdict)


def _set_aside(path: Path) -> Path:
    """Rename the file and its companions; nothing is overwritten."""
    stamp = time.strftime("%Y%m%dT%H%M%S")
    number = 0
    while (aside := path.with_name(f"{path.name}.damaged-{stamp}-{number}")).exists():
        number += 1
    for companion in _COMPANIONS:
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{companion}", f"{aside}{companion}")
    return aside


@contextlib.contextmanager
def _exclusive_lock(path: Path) -> Iterator[None]:
    """Keep other processes from opening or setting aside the file meanwhile."""
    descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            logger.warning("%s: the file system has no locks: damage is not told to other processes", path)
        yield
    finally:
        os.close(descriptor)
