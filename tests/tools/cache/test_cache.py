"""The cache: what it keeps, what it forgets, and that any text can be asked and stored."""

import os
import time
from pathlib import Path

import pytest
from cached import PARIS, get, key, put
from hypothesis import given, settings
from hypothesis import strategies as st
from other_user import without_root

from arpo_tools.cache import SearchCache
from arpo_tools.passage import Passage


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


@pytest.mark.parametrize(
    ("query", "other"),
    [
        ("10^5", "10⁵"),
        ("105", "10⁵"),
        ("H2O", "H₂O"),
        ("12", "1½"),
        ("1⁄2", "½"),
        ("1", "①"),
        ("(1)", "⑴"),
        ("1.", "⒈"),
        ("viii", "Ⅷ"),
        ("fi", "ﬁ"),
        ("strasse", "straße"),
        ("s", "ſ"),
        ("kg", "㎏"),
        ("tm", "™"),
        ("...", "…"),
        ("a", "ª"),
        ("平成", "㍻"),
        ("ж", "җ"),
        ("é", "e"),
        ("दिन", "दान"),
        ('"paris"', "＂paris＂"),
        ("-paris", "－paris"),
        ("cats or dogs", "cats OR dogs"),
        ("paris (not texas)", "paris (NOT texas)"),
        ("a b", "a\u200bb"),
        ("", "\u200d"),
    ],
)
def test_what_a_search_engine_tells_apart_has_two_keys(path, query, other):
    cache = SearchCache(path)
    put(cache, key(query), PARIS)
    assert get(cache, key(other)) is None
    put(cache, key(other), Passage("other"))
    assert get(cache, key(query)) == [PARIS]


@pytest.mark.parametrize(
    ("query", "same"),
    [("ﾊﾟﾘ", "パリ"), ("１０ ｋｍ", "10 km"), ("e\u0301", "é"), ("\u1100\u1161", "가"), ("a\u3000b", "a b")],
)
def test_width_and_composition_do_not_matter(query, same):
    assert key(query) == key(same)


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


def without_rights(path: Path) -> None:
    """Take the right to write from a file and its folder."""
    path.chmod(0o444)
    path.parent.chmod(0o555)


def test_a_cache_that_can_only_be_read_gives_its_answers_and_takes_none(public_folder):
    path = public_folder / "cache.sqlite"
    cache = SearchCache(path)
    put(cache, key(), PARIS)
    cache.close()
    before = path.read_bytes()
    without_rights(path)

    def read() -> str:
        readable = SearchCache(path)
        put(readable, key("rome"), Passage("x"))
        try:
            readable.put_all([])
        except PermissionError as error:
            return f"{get(readable, key())} {get(readable, key('rome'))} {'make it' in str(error)}"
        return "was written"

    assert without_root(read) == f"{[PARIS]} None True"
    assert path.read_bytes() == before


def test_a_file_that_can_only_be_read_in_a_folder_that_can_be_written_is_read(public_folder):
    path = public_folder / "cache.sqlite"
    cache = SearchCache(path)
    put(cache, key(), PARIS)
    cache.close()
    path.chmod(0o444)
    public_folder.chmod(0o777)
    assert without_root(lambda: str(get(SearchCache(path), key()))) == str([PARIS])


def test_what_a_killed_writer_left_in_its_wal_is_seen_in_a_folder_that_can_only_be_read(public_folder):
    path = public_folder / "cache.sqlite"
    writer = os.fork()
    if writer == 0:
        put(SearchCache(path), key(), PARIS)
        os._exit(0)  # without closing, as when it is killed
    os.waitpid(writer, 0)
    assert Path(f"{path}-wal").stat().st_size > 0
    Path(f"{path}-shm").unlink()
    without_rights(path)
    Path(f"{path}-wal").chmod(0o444)
    assert without_root(lambda: str(get(SearchCache(path, is_read_only=True), key()))) == str([PARIS])
