"""The cache on real files and real processes: what it keeps, what it forgets, and what can't hurt it."""

import asyncio
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arpo_tools.cache import ANY_PARAMETERS, CacheKey, SearchCache
from arpo_tools.cache_command import main
from arpo_tools.file_system import network_file_system
from arpo_tools.search.passage import Passage
from arpo_tools.sqlite_file import ForeignFileError
from arpo_tools.sqlite_queue import SqliteQueue

PARIS = Passage("The capital of France.", "Paris", "https://p.org/", "whole text", 1.5)
RELEASED = Path("/work/shared/data/search_cache.json")


def key(query: str = "paris", backend: str = "serper", **parameters: str) -> CacheKey:
    return CacheKey.of(backend, query, parameters)


def get(cache: SearchCache, of: CacheKey) -> list[Passage] | None:
    return asyncio.run(cache.get(of))


def put(cache: SearchCache, of: CacheKey, *passages: Passage) -> None:
    asyncio.run(cache.put(of, passages))


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "folder" / "cache.sqlite"


def test_what_was_put_is_got_whole_and_by_a_later_process(path):
    put(SearchCache(path), key(), PARIS, Passage("x"))
    assert get(SearchCache(path), key()) == [PARIS, Passage("x")]


def test_what_was_not_put_is_none(path):
    assert get(SearchCache(path), key()) is None


def test_a_later_answer_replaces_an_earlier_one(path):
    cache = SearchCache(path)
    put(cache, key(), Passage("old"))
    put(cache, key(), Passage("new"))
    assert get(cache, key()) == [Passage("new")]


@pytest.mark.parametrize("query", ["PARIS", " paris\n", "ｐａｒｉｓ", "Paris\t"])
def test_case_width_and_spaces_do_not_matter(path, query):
    cache = SearchCache(path)
    put(cache, key("paris"), PARIS)
    assert get(cache, key(query)) == [PARIS]


@pytest.mark.parametrize("other", [key("pari"), key(backend="brave"), key(top_k="3"), key(country="de"), key("pa ris")])
def test_query_backend_and_parameters_all_matter(path, other):
    cache = SearchCache(path)
    put(cache, key(), PARIS)
    assert get(cache, other) is None


def test_the_order_of_parameters_does_not_matter():
    assert key(a="1", b="2") == key(b="2", a="1")


def test_an_answer_without_results_is_kept_for_a_short_time(path, monkeypatch):
    cache = SearchCache(path, empty_seconds=100)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    put(cache, key())
    assert get(cache, key()) == []
    monkeypatch.setattr(time, "time", lambda: now + 99)
    assert get(cache, key()) == []
    monkeypatch.setattr(time, "time", lambda: now + 100)
    assert get(cache, key()) is None


def test_an_answer_with_results_does_not_expire(path, monkeypatch):
    cache = SearchCache(path, empty_seconds=1)
    put(cache, key(), PARIS)
    later = time.time() + 1e9
    monkeypatch.setattr(time, "time", lambda: later)
    assert get(cache, key()) == [PARIS]


def test_an_empty_answer_from_before_the_clock_was_set_back_is_not_believed(path, monkeypatch):
    cache = SearchCache(path, empty_seconds=100)
    now = time.time()
    put(cache, key())
    monkeypatch.setattr(time, "time", lambda: now - 3600)
    assert get(cache, key()) is None


@given(st.text(st.characters()), st.text(st.characters()), st.text(st.characters()))
@settings(deadline=None, max_examples=60)
def test_any_text_can_be_a_query_and_a_passage(tmp_path_factory, query, backend, snippet):
    cache = SearchCache(tmp_path_factory.getbasetemp() / "any.sqlite")
    clean = backend.encode("utf-8", "replace").decode()
    put(cache, key(query, clean, k=snippet), Passage(snippet))
    assert get(cache, key(query, clean, k=snippet)) == [Passage(snippet)]
    cache.close()


@pytest.mark.parametrize("query", ["'; DROP TABLE answers; --", "%", "_", "\0", "\ud800", "x" * 1_000_000, '"'])
def test_hostile_queries_are_queries(path, query):
    cache = SearchCache(path)
    put(cache, key("paris"), PARIS)
    assert get(cache, key(query)) is None
    put(cache, key(query), Passage("found"))
    assert get(cache, key(query)) == [Passage("found")]
    assert get(cache, key("paris")) == [PARIS]


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
from arpo_tools.search.passage import Passage
cache = SearchCache(sys.argv[1])
key = CacheKey.of("serper", sys.argv[2], {})
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
from arpo_tools.search.passage import Passage
cache = SearchCache(sys.argv[1])
async def main():
    number = 0
    while True:
        await cache.put(CacheKey.of("serper", f"{sys.argv[2]} {number}", {}), [Passage("x" * 2000)])
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
    monkeypatch.setattr("arpo_tools.sqlite_file.network_file_system", lambda _: "nfs4")
    cache = SearchCache(path)
    put(cache, key(), PARIS)
    assert get(cache, key()) == [PARIS]
    mode = cache._file.run(lambda connection: connection.execute("PRAGMA journal_mode").fetchone())
    assert mode == ("delete",)
    assert "nfs4" in caplog.text


def released(folder: Path, answers: object) -> Path:
    file = folder / "search_cache.json"
    file.write_text(json.dumps(answers))
    return file


def test_the_released_projects_file_is_imported_without_its_failures(tmp_path, path, capsys):
    file = released(
        tmp_path,
        {
            "Who?": "Page 1: first page\nand more\nPage 2: second: Page 3: no page\nPage 10: tenth",
            "nothing": "No search results found.",
            "empty": "",
            "null": None,
            " ": "Page 1: an answer to nothing",
        },
    )
    assert main(["import", str(file), "--cache", str(path), "--backend", "brightdata"]) == 0
    assert capsys.readouterr().out == "1 answers imported, 4 without results left out\n"
    expected = [Passage("first page\nand more"), Passage("second: Page 3: no page"), Passage("tenth")]
    assert get(SearchCache(path), key("WHO?", "brightdata", top_k="10")) == expected
    assert get(SearchCache(path), key("who?", "serper")) is None


def test_an_answer_of_ones_own_goes_before_an_imported_one(path):
    cache = SearchCache(path)
    put(cache, CacheKey("serper", "paris", ANY_PARAMETERS), Passage("imported"))
    put(cache, key(top_k="3"), Passage("own"))
    assert get(cache, key(top_k="3")) == [Passage("own")]
    assert get(cache, key(top_k="5")) == [Passage("imported")]


def test_an_export_imported_elsewhere_is_the_same_cache(tmp_path, path, capsys):
    cache = SearchCache(path)
    for number in range(1200):  # several pages of the export's
        put(cache, key(f"q {number}", top_k="1"), Passage(f"Zürich \ud800 {number}", score=0.5))
    put(cache, key("empty"))
    out = tmp_path / "export.jsonl"
    assert main(["export", "--cache", str(path), "--out", str(out)]) == 0
    assert len(out.read_text().splitlines()) == 1201
    assert main(["import", str(out), "--cache", str(tmp_path / "other.sqlite")]) == 0
    assert list(SearchCache(tmp_path / "other.sqlite").entries()) == list(cache.entries())


def test_statistics_count_by_backend(path, capsys):
    cache = SearchCache(path)
    put(cache, key("a"), PARIS)
    put(cache, key("b"))
    put(cache, key("a", "brave"), PARIS)
    assert main(["stats", "--cache", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["brave: 1 answers, 0 of them empty", "serper: 2 answers, 1 of them empty"]


@pytest.mark.parametrize("command", ["stats", "export"])
def test_a_missing_cache_is_an_error_and_is_not_made(path, command, capsys):
    assert main([command, "--cache", str(path)]) == 1
    assert "is not a file" in capsys.readouterr().err
    assert not path.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000])
def test_a_file_of_another_shape_is_not_imported(tmp_path, path, text, capsys):
    file = tmp_path / "x.json"
    file.write_text(text)
    assert main(["import", str(file), "--cache", str(path)]) == 1
    assert str(file) in capsys.readouterr().err


def test_a_broken_line_of_an_export_is_named_and_nothing_is_imported(tmp_path, path, capsys):
    good = json.dumps({"backend": "b", "query": "q", "parameters": "{}", "created": 0, "passages": [{"snippet": "s"}]})
    file = tmp_path / "x.jsonl"
    file.write_text(f"{good}\n\n{{}}\n")
    assert main(["import", str(file), "--cache", str(path)]) == 1
    assert f"{file}:3" in capsys.readouterr().err
    assert list(SearchCache(path).entries()) == []


@pytest.mark.skipif(not RELEASED.is_file(), reason="the released project's search_cache.json is not on this machine")
def test_the_real_released_file_is_imported(path, capsys):
    assert main(["import", str(RELEASED), "--cache", str(path)]) == 0
    assert capsys.readouterr().out == "996 answers imported, 4 without results left out\n"
    [first, *_] = get(SearchCache(path), key("amy smart film debut campfire tales", "brightdata"))
    assert first.snippet.startswith("The film is made up of three individual short segments")
