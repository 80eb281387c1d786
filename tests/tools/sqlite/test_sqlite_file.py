"""The shared file under damage, forks, killed writers, many processes, locks and network file systems."""

import asyncio
import contextlib
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cached import PARIS, get, key, put

from arpo_tools.cache import SearchCache
from arpo_tools.passage import Passage
from arpo_tools.sqlite.file import ForeignFileError
from arpo_tools.sqlite.file_system import network_file_system
from arpo_tools.sqlite.queue import SqliteQueue


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "folder" / "cache.sqlite"


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"this is no database" * 1000),
        lambda path: path.write_bytes(path.read_bytes()[:5000]),
        lambda path: path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 8192 + path.read_bytes()[12288:]),
        lambda path: path.write_bytes(b"SQLite format 3\0" + b"\1" * 4096),
    ],
    ids=["garbage", "cut", "page", "header"],
)
def test_a_damaged_file_is_set_aside_whole_and_work_goes_on(path, damage):
    cache = SearchCache(path)
    for number in range(200):
        put(cache, key(str(number)), Passage("x" * 200))
    cache.close()
    damage(path)
    damaged = path.read_bytes()
    cache = SearchCache(path)
    put(cache, key(), PARIS)
    assert get(SearchCache(path), key()) == [PARIS]
    [aside] = path.parent.glob("cache.sqlite.damaged-*-0")
    assert aside.read_bytes() == damaged


def test_two_damaged_files_in_one_second_are_both_kept(path):
    for text in (b"first " * 1000, b"second " * 1000):
        SearchCache(path).close()
        path.write_bytes(text)
    SearchCache(path).close()
    assert sorted(file.read_bytes()[:3] for file in path.parent.glob("*.damaged-*")) == [b"fir", b"sec"]


def test_damage_during_the_run_is_set_aside_and_work_goes_on(path):
    cache = SearchCache(path)
    for number in range(300):
        put(cache, key(str(number)), Passage("x" * 500))
    cache._file.run(lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    cache._file.run(lambda connection: connection.execute("PRAGMA shrink_memory").fetchall())
    for number in range(300):
        get(cache, key(str(number)))  # the damaged page is met sooner or later
    put(cache, key(), PARIS)
    assert cache.is_on
    assert get(cache, key()) == [PARIS]
    assert len(list(path.parent.glob("*.damaged-*-0"))) == 1


def test_a_file_of_another_program_is_refused_and_left_alone(path):
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE precious (data)")
    before = path.read_bytes()
    with pytest.raises(ForeignFileError, match="another kind"):
        SearchCache(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("where", ["/proc/cache.sqlite", "/dev/null/cache.sqlite"])
def test_a_path_where_nothing_can_be_written_turns_the_cache_off_with_one_line_in_the_log(where, caplog):
    cache = SearchCache(where)
    put(cache, key(), PARIS)
    assert get(cache, key()) is None
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1


def test_a_cache_that_fails_again_and_again_turns_itself_off(path, caplog):
    cache = SearchCache(path)
    cache._file.run(lambda connection: connection.execute("DROP TABLE answers"))
    for _ in range(10):
        put(cache, key(), PARIS)
        assert get(cache, key()) is None
    assert not cache.is_on
    assert len(caplog.records) == 2


def test_a_locked_file_costs_its_wait_and_no_error(path):
    cache = SearchCache(path)
    cache._file._layout = cache._file._layout.__class__(cache._file._layout.application_id, "", busy_seconds=0.05)
    cache.close()
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        put(cache, key(), PARIS)
        other.execute("ROLLBACK")
    put(cache, key(), PARIS)
    assert get(cache, key()) == [PARIS]


async def test_a_damaged_file_under_many_calls_at_once_is_set_aside_once(path):
    cache = SearchCache(path)
    for number in range(300):
        await cache.put(key(str(number)), [Passage("x" * 500)])
    cache._file.run(lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    cache._file.run(lambda connection: connection.execute("PRAGMA shrink_memory").fetchall())
    await asyncio.gather(*(cache.get(key(str(number))) for number in range(300)))
    assert cache.is_on
    await asyncio.gather(*(cache.put(key(str(number)), [PARIS]) for number in range(20)))
    assert await asyncio.gather(*(cache.get(key(str(number))) for number in range(20))) == [[PARIS]] * 20
    assert len(list(path.parent.glob("*.damaged-*"))) == 1


def test_all_processes_go_over_to_the_new_file_when_one_sets_the_old_one_aside(path):
    first, second = SearchCache(path), SearchCache(path)
    put(first, key("old"), PARIS)
    assert get(second, key("old")) == [PARIS]
    for companion in ("", "-wal", "-shm"):
        os.rename(f"{path}{companion}", f"{path}.aside{companion}")
    put(first, key("new"), PARIS)
    assert get(second, key("new")) == [PARIS]
    assert get(second, key("old")) is None


def test_a_file_that_is_removed_during_the_run_is_begun_anew(path):
    cache = SearchCache(path)
    path.unlink()
    put(cache, key(), PARIS)
    assert get(SearchCache(path), key()) == [PARIS]


async def test_a_full_disk_costs_calls_and_no_error(path, caplog):
    cache = SearchCache(path)
    file = cache.require_file()
    file.run(lambda connection: connection.execute("PRAGMA max_page_count=10").fetchall())
    await asyncio.gather(*(cache.put(key(str(number)), [Passage("x" * 5000)]) for number in range(40)))
    file.run(lambda connection: connection.execute("PRAGMA max_page_count=100000").fetchall())
    await cache.put(key(), [PARIS])
    assert await cache.get(key()) == [PARIS]
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1


async def test_many_calls_at_once_each_get_their_own_answer(path):
    cache = SearchCache(path)

    async def one(number: int) -> list[Passage] | None:
        await cache.put(key(str(number)), [Passage(str(number))])
        return await cache.get(key(str(number)))

    assert await asyncio.gather(*map(one, range(300))) == [[Passage(str(number))] for number in range(300)]


async def test_a_write_that_cannot_be_stored_spoils_no_other(path):
    queue = SqliteQueue(SearchCache(path).require_file())
    sql = "INSERT INTO answers VALUES (?, 'q', '{}', '[]', 0)"
    rows = ["good", "\ud800", "better"]
    writes = [queue.call(lambda connection, row=row: connection.execute(sql, (row,)), True) for row in rows]
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    assert [isinstance(outcome, Exception) for outcome in outcomes] == [False, True, False]
    assert sorted(entry.key.backend for entry in SearchCache(path).entries()) == ["better", "good"]


async def test_a_cancelled_call_holds_up_no_other(path):
    cache = SearchCache(path)
    calls = [asyncio.create_task(cache.put(key(str(number)), [PARIS])) for number in range(20)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert [await cache.get(key(str(number))) for number in range(1, 20, 2)] == [[PARIS]] * 10


def test_rows_that_cannot_be_read_are_no_answer(path):
    cache = SearchCache(path)
    sql = "INSERT INTO answers VALUES ('serper', ?, '{}', ?, 0)"
    for number, text in enumerate(["", "[", "3", "[3]", '[{"colour": 1}]', "[" * 100_000]):
        cache._file.run(lambda connection, row=(f"q{number}", text): connection.execute(sql, row))
        assert get(cache, key(f"q{number}")) is None


def test_a_forked_child_opens_its_own_connection_and_the_parents_lives_on(path):
    cache = SearchCache(path)
    put(cache, key("before"), PARIS)
    child = os.fork()
    if child == 0:
        is_right = False
        try:
            is_right = get(cache, key("before")) == [PARIS]
            put(cache, key("child"), Passage("from the child"))
        finally:
            os._exit(0 if is_right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert get(cache, key("child")) == [Passage("from the child")]
    put(cache, key("after"), PARIS)
    assert get(SearchCache(path), key("after")) == [PARIS]


def processes(code: str, number: int, *arguments: str) -> list[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return [
        subprocess.Popen(
            [sys.executable, "-c", code, *arguments, str(index)], env=environment, stdout=subprocess.PIPE, text=True
        )
        for index in range(number)
    ]


OPEN = """
import asyncio, sys
from arpo_tools.cache import CacheKey, SearchCache
from arpo_tools.passage import Passage
cache = SearchCache(sys.argv[1])
key = CacheKey.of_query("serper", sys.argv[2], {})
asyncio.run(cache.put(key, [Passage(sys.argv[2])]))
print(asyncio.run(cache.get(key)) == [Passage(sys.argv[2])])
"""


@pytest.mark.slow
def test_processes_that_open_a_new_file_at_once_all_write_to_it(path):
    outputs = [process.communicate()[0] for process in processes(OPEN, 8, str(path))]
    assert outputs == ["True\n"] * 8
    assert [get(SearchCache(path), key(str(index))) for index in range(8)] == [[Passage(str(i))] for i in range(8)]


@pytest.mark.slow
def test_processes_that_open_a_damaged_file_at_once_set_it_aside_once_and_share_the_new_one(path):
    path.parent.mkdir()
    path.write_bytes(b"damaged " * 4096)
    outputs = [process.communicate()[0] for process in processes(OPEN, 8, str(path))]
    assert outputs == ["True\n"] * 8
    assert [file.read_bytes()[:8] for file in path.parent.glob("*.damaged-*")] == [b"damaged "]
    assert [get(SearchCache(path), key(str(index))) for index in range(8)] == [[Passage(str(i))] for i in range(8)]


WRITE = """
import asyncio, sys
from arpo_tools.cache import CacheKey, SearchCache
from arpo_tools.passage import Passage
cache = SearchCache(sys.argv[1])
async def main():
    number = 0
    while True:
        await cache.put(CacheKey.of_query("serper", f"{sys.argv[2]} {number}", {}), [Passage("x" * 2000)])
        print(number, flush=True)
        number += 1
asyncio.run(main())
"""


@pytest.mark.slow
def test_no_acknowledged_write_is_lost_when_writers_are_killed(path):
    lost, written = 0, 0
    for round_number in range(3):
        writers = processes(WRITE.replace("{sys.argv[2]} ", f"{round_number} {{sys.argv[2]}} "), 4, str(path))
        for writer in writers:
            assert writer.stdout is not None
            writer.stdout.readline()  # all of them write now
        time.sleep(0.3)
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
        cache = SearchCache(path)
        for index, writer in enumerate(writers):
            numbers = [0, *map(int, writer.communicate()[0].splitlines())]
            written += len(numbers)
            lost += sum(get(cache, key(f"{round_number} {index} {number}")) is None for number in numbers[-50:])
        verdict = cache._file.run(lambda connection: connection.execute("PRAGMA integrity_check").fetchall())
        assert verdict == [("ok",)]
        cache.close()
    assert written > 100
    assert lost == 0
    assert list(path.parent.glob("*.damaged-*")) == []


def mountinfo(*mounts: tuple[str, str]) -> str:
    lines = (f"{n} 1 0:{n} / {point} rw shared:1 - {kind} source rw" for n, (point, kind) in enumerate(mounts))
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/u/cache", "nfs4"),
        ("/home", "nfs4"),
        ("/homeless/cache", None),
        ("/home/local/cache", None),
        ("/scratch/x", "lustre"),
        ("/mnt/my disk/x", "fuse.sshfs"),
        ("/tmp/x", None),
        ("/over/x", "cifs"),
    ],
)
def test_the_deepest_and_last_mount_above_a_path_says_whether_it_is_on_a_network(path, kind):
    table = mountinfo(
        *(("/", "overlay"), ("/home", "nfs4"), ("/home/local", "ext4"), ("/scratch", "lustre"), ("/tmp", "tmpfs")),
        *(("/mnt/my\\040disk", "fuse.sshfs"), ("/over", "ext4"), ("/over", "cifs")),
    )
    assert network_file_system(Path(path), table) == kind


def test_an_odd_mount_table_is_no_network():
    assert network_file_system(Path("/x"), "\n - \n1 2 3\ngarbage - nfs\n") is None


def test_this_machines_temporary_directory_is_local(tmp_path):
    assert network_file_system(tmp_path) is None


def test_a_network_file_system_gets_a_rollback_journal_and_a_warning(path, monkeypatch, caplog):
    monkeypatch.setattr("arpo_tools.sqlite.file.network_file_system", lambda _: "nfs4")
    cache = SearchCache(path)
    put(cache, key(), PARIS)
    assert get(cache, key()) == [PARIS]
    mode = cache._file.run(lambda connection: connection.execute("PRAGMA journal_mode").fetchone())
    assert mode == ("delete",)
    assert "nfs4" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        "PRAGMA user_version=2",
        "PRAGMA user_version=99",
        "ALTER TABLE answers ADD COLUMN language TEXT",
        "ALTER TABLE answers RENAME COLUMN passages TO documents",
    ],
)
@pytest.mark.parametrize("is_read_only", [False, True])
def test_a_file_of_a_later_version_is_refused_and_left_as_it_is(path, change, is_read_only):
    cache = SearchCache(path)
    put(cache, key(), PARIS)
    cache.close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(change)
    before = path.read_bytes()
    with pytest.raises(ForeignFileError, match="later version"):
        SearchCache(path, is_read_only=is_read_only)
    assert path.read_bytes() == before


def test_a_file_without_a_version_is_taken_over(path):
    cache = SearchCache(path)
    put(cache, key(), PARIS)
    cache.require_file().run(lambda connection: connection.execute("PRAGMA user_version=0"))
    cache.close()
    cache = SearchCache(path)
    assert get(cache, key()) == [PARIS]
    version = cache.require_file().run(lambda connection: connection.execute("PRAGMA user_version").fetchone())
    assert version == (1,)
