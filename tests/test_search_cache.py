"""The cache: what it keeps, what it forgets, and that any text can be asked and stored."""

import time
from pathlib import Path

import pytest
from cached import PARIS, get, key, put
from hypothesis import given, settings
from hypothesis import strategies as st

from arpo_tools.cache import SearchCache
from arpo_tools.search.passage import Passage


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
