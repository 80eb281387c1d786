"""The cache's command line: import, export, statistics."""

import json
import os
import resource
import signal
from pathlib import Path

import pytest
from cached import PARIS, get, key, put
from other_user import without_root

from arpo_tools.cache import ANY_PARAMETERS, CacheKey, SearchCache
from arpo_tools.cache.__main__ import main
from arpo_tools.passage import Passage

RELEASED = Path(os.environ.get("ARPO_TEST_DATA", "."), "search_cache.json")


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "folder" / "cache.sqlite"


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


@pytest.mark.parametrize("backend", ["local", "replay", "brightdta", "Serper", "", "page"])
def test_answers_of_a_back_end_that_looks_into_no_cache_are_refused(tmp_path, path, backend, capsys):
    file = released(tmp_path, {"Who?": "Page 1: somebody"})
    with pytest.raises(SystemExit) as stop:
        main(["import", str(file), "--cache", str(path), "--backend", backend])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert f"invalid choice: {backend!r}" in error and "brightdata" in error
    assert not path.exists()


EXPORTED = {"backend": "serper", "query": "q", "parameters": "{}", "created": 0, "passages": [{"snippet": "s"}]}


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"backend": "local"}, "the answers of 'local', which looks into no cache, would be read by nothing"),
        ({"backend": "replay"}, "the answers of 'replay', which looks into no cache"),
        ({"backend": 5}, "5 is not text"),
        ({"parameters": {"top_k": "3"}}, "is not text"),
        ({"query": " "}, "expected a query"),
        ({"created": float("nan")}, "a time in `created`"),
        ({"created": "soon"}, "expected a line of `export`"),
    ],
)
def test_an_exported_answer_that_nothing_would_read_is_named(tmp_path, path, fields, problem, capsys):
    file = tmp_path / "x.jsonl"
    file.write_text(json.dumps(EXPORTED) + "\n" + json.dumps(EXPORTED | fields) + "\n")
    assert main(["import", str(file), "--cache", str(path)]) == 1
    error = capsys.readouterr().err
    assert f"{file}:2: " in error and problem in error
    assert list(SearchCache(path).entries()) == []


def test_an_exported_answer_is_found_however_its_query_was_written(tmp_path, path):
    file = tmp_path / "x.jsonl"
    file.write_text(json.dumps(EXPORTED | {"query": "  WHO was\tFirst? "}) + "\n")
    assert main(["import", str(file), "--cache", str(path)]) == 0
    assert get(SearchCache(path), CacheKey.of_query("serper", "who was first?", {})) == [Passage("s")]


@pytest.mark.skipif(not RELEASED.is_file(), reason="$ARPO_TEST_DATA has no search_cache.json of the released project")
def test_the_real_released_file_is_imported(path, capsys):
    assert main(["import", str(RELEASED), "--cache", str(path)]) == 0
    assert capsys.readouterr().out == "996 answers imported, 4 without results left out\n"
    [first, *_] = get(SearchCache(path), key("amy smart film debut campfire tales", "brightdata"))
    assert first.snippet.startswith("The film is made up of three individual short segments")


@pytest.mark.parametrize("command", [["stats"], ["export", "--out", "/dev/null"]])
def test_looking_at_a_cache_needs_no_right_to_write(public_folder, command):
    path = public_folder / "cache.sqlite"
    cache = SearchCache(path)
    cache.put_all([])
    cache.close()
    path.chmod(0o444)
    public_folder.chmod(0o555)
    assert without_root(lambda: str(main([*command, "--cache", str(path)]))) == "0"


@pytest.mark.parametrize("backend", ["local", "replay", "google"])
def test_answers_are_not_imported_for_what_reads_no_cache(tmp_path, backend, capsys):
    with pytest.raises(SystemExit):
        main(["import", "x.json", "--backend", backend, "--cache", str(tmp_path / "c.sqlite")])
    assert "brightdata" in capsys.readouterr().err


def test_a_full_disk_is_what_the_import_says(tmp_path, capsys):
    file = tmp_path / "search_cache.json"
    file.write_text(json.dumps({f"q{number}": "Page 1: " + "x" * 10_000 for number in range(300)}))
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        code = main(["import", str(file), "--cache", str(tmp_path / "c.sqlite")])
        said = capsys.readouterr().err
        os._exit(0 if code == 1 and "rollback" not in said and "disk" in said else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
