"""The search tool on real SQLite: ranking, hostile queries, bad corpora, and the life of the index."""

import asyncio
import json
import os
import re
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from other_user import NOBODY, without_root

from arpo_tools import LocalSearch, ToolResult, ToolStatus
from arpo_tools.local_search import CorpusError
from arpo_tools.search import open_index
from arpo_tools.search.index import DamagedIndexError

DOCUMENTS = [
    {"title": "France", "contents": "Paris is the capital of France"},
    {"title": "Lights", "contents": "Paris Paris Paris, city of light"},
    {"title": "Rome", "contents": "the eternal city"},
    {"contents": "Zürich has no title, and OR is not AND"},
]


def write(folder: Path, *documents: dict, name: str = "corpus.jsonl") -> Path:
    corpus = folder / name
    corpus.write_text("".join(json.dumps(document) + "\n" for document in documents), encoding="utf-8")
    return corpus


def search(tool: LocalSearch, query: str) -> ToolResult:
    return asyncio.run(tool.run(query))


def passages(tool: LocalSearch, query: str) -> list[str]:
    """The passages of a result, without their ranks and titles."""
    lines = search(tool, query).text.splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"Page {rank}" for rank in range(1, len(lines) + 1)]
    return [re.sub(r"^Page \d+: (\(Title: .*?\) )?", "", line) for line in lines]


def indexes(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(".corpus.jsonl.*") if path.suffix in (".fts5", ".bm25s"))


@pytest.fixture(scope="module", params=["bm25s", "fts5"], autouse=True)
def engine(request):
    """Every test runs with either engine, as on a machine that has bm25s and on one that has not."""
    if request.param == "bm25s":
        pytest.importorskip("bm25s", reason="the extra `search` is not installed")
    patch = pytest.MonkeyPatch()
    patch.setattr(open_index, "is_bm25s_installed", lambda: request.param == "bm25s")
    yield request.param
    patch.undo()


@pytest.fixture(scope="module")
def tool(tmp_path_factory, engine) -> LocalSearch:
    return LocalSearch(write(tmp_path_factory.mktemp("search"), *DOCUMENTS))


def test_best_passage_comes_first(tool):
    assert passages(tool, "Paris") == ["Paris Paris Paris, city of light", "Paris is the capital of France"]
    assert passages(tool, "capital Paris")[0] == "Paris is the capital of France"


def test_one_hit_is_one_numbered_line(tool):
    assert search(tool, "eternal") == ToolResult("Page 1: (Title: Rome) the eternal city", ToolStatus.OK)


@pytest.mark.parametrize("query", ["ETERNAL", "why eternal?", "eternal nonsense", "  eternal\n", "Rome", "'eternal'"])
def test_any_word_in_any_case_finds_a_document_by_contents_or_title(tool, query):
    assert passages(tool, query) == ["the eternal city"]


def test_accents_do_not_matter(tool):
    assert passages(tool, "zurich") == passages(tool, "ZÜRICH") == ["Zürich has no title, and OR is not AND"]


@pytest.mark.parametrize(("top_k", "hits"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (9, 5)])
def test_top_k_caps_the_passages(tmp_path, top_k, hits):
    corpus = write(tmp_path, *({"contents": f"word {number}"} for number in range(5)))
    assert passages(LocalSearch(corpus, top_k=top_k), "word") == [f"word {number}" for number in range(hits)]


def test_documents_of_equal_rank_keep_the_order_of_the_corpus(tmp_path):
    corpus = write(tmp_path, *({"contents": f"word {number}"} for number in (3, 1, 2)))
    assert passages(LocalSearch(corpus), "word") == ["word 3", "word 1", "word 2"]


@pytest.mark.parametrize(("length", "passage"), [(1, "a"), (6, "aaaa b"), (11, "aaaa bbbb c"), (12, "aaaa bbbb c")])
def test_passages_are_cut(tmp_path, length, passage):
    corpus = write(tmp_path, {"contents": "aaaa bbbb c"})
    assert search(LocalSearch(corpus, max_passage_chars=length), "c").text == f"Page 1: {passage}"


def test_no_hits_is_empty_and_says_for_what(tool):
    assert search(tool, " unheard? ") == ToolResult("No results for: unheard?", ToolStatus.EMPTY)


@pytest.mark.parametrize("query", ["", " ", "\n", "?!", '"', "'", "()", "*", "\0", "\ud800", "-- ;"])
def test_a_query_without_words_is_a_model_error(tool, query):
    assert search(tool, query) == ToolResult("Error: the query has no words.", ToolStatus.MODEL_ERROR)


@pytest.mark.parametrize(
    "query",
    [
        'eternal"',
        '"eternal',
        '"" eternal ""',
        "eternal*",
        "^eternal",
        "(eternal",
        "contents : eternal",
        "nothing:eternal",
        "eternal + x",
        "-eternal",
        "{eternal}",
        "NEAR(eternal, 2)",
        "eternal'; DROP TABLE documents; --",
        "eternal\0",
        "eternal\ud800",
    ],
)
def test_operators_and_quotes_are_harmless(tool, query):
    assert passages(tool, query) == ["the eternal city"]


@pytest.mark.parametrize("query", ["OR", "AND", "NOT", "not", "and or"])
def test_the_names_of_operators_are_words_like_any_other(tool, query):
    assert passages(tool, query) == ["Zürich has no title, and OR is not AND"]


@pytest.mark.parametrize("query", ["NEAR", "MATCH", "rank", "documents", "contents", "title:", "NULL"])
def test_the_names_of_sql_are_words_that_are_not_there(tmp_path, query):
    tool = LocalSearch(write(tmp_path, {"title": "Rome", "contents": "the eternal city"}))
    assert search(tool, query).status is ToolStatus.EMPTY


@given(st.text(st.characters() | st.sampled_from("\"'*^():{}+-,AND OR NOT NEAR\0_"), max_size=60))
@example("_")
@example('" OR "')
@example("²½Ⅷ")
@example("a" * 100_000)
@example(" ".join(f"w{number}" for number in range(5_000)))
@settings(deadline=None)
def test_no_text_raises_or_breaks_the_index(tool, query):
    result = search(tool, query)
    assert result.status in (ToolStatus.OK, ToolStatus.EMPTY, ToolStatus.MODEL_ERROR)
    assert result.text
    assert search(tool, "eternal").status is ToolStatus.OK


@given(st.lists(st.from_regex(r"[a-z]{1,8}", fullmatch=True), min_size=1, max_size=12))
@settings(max_examples=30, deadline=None)
def test_a_document_is_found_by_each_of_its_words(words):
    with tempfile.TemporaryDirectory() as folder:
        corpus = write(Path(folder), {"contents": "0"}, {"contents": " ".join(words)}, {"contents": "1"})
        tool = LocalSearch(corpus)
        assert all(passages(tool, word) == [" ".join(words)] for word in words)


def test_missing_corpus_is_an_error_that_names_the_file(tmp_path):
    with pytest.raises(CorpusError, match=r"missing\.jsonl' is not a file"):
        LocalSearch(tmp_path / "missing.jsonl")


def test_a_folder_is_no_corpus(tmp_path):
    with pytest.raises(CorpusError, match="is not a file"):
        LocalSearch(tmp_path)


@pytest.mark.parametrize("text", ["", "\n", " \n\t\n\n"])
def test_empty_corpus_is_an_error_and_leaves_no_index(tmp_path, text):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(text)
    with pytest.raises(CorpusError, match=r"corpus\.jsonl' holds no document"):
        LocalSearch(corpus)
    assert list(tmp_path.iterdir()) == [corpus]


BROKEN_LINES = [
    b"{",
    b'{"contents": "x"',
    b"contents",
    b'{"text": "x"}',
    b'{"title": "x"}',
    b"{}",
    b"[1]",
    b"3",
    b"null",
    b'"contents"',
]
UNREADABLE_LINES = [
    b'{"contents": "\xff"}',
    b'{"contents": "\\ud800"}',
    b'{"contents": null}',
    b"[" * 100_000,
]


@pytest.mark.parametrize(
    "line", [*BROKEN_LINES, *(pytest.param(line, id=repr(line[:25])) for line in UNREADABLE_LINES)]
)
def test_broken_line_is_an_error_that_names_file_and_line_and_leaves_no_index(tmp_path, line):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_bytes(b'{"contents": "good"}\n\n' + line + b'\n{"contents": "good"}\n')
    with pytest.raises(CorpusError, match=r"corpus\.jsonl:3: got "):
        LocalSearch(corpus)
    assert list(tmp_path.iterdir()) == [corpus]


def test_blank_lines_are_skipped_and_the_last_line_needs_no_end(tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('\n{"contents": "one word"}\n\n   \n{"title": null, "contents": "two words word"}')
    assert passages(LocalSearch(corpus), "one two") == ["one word", "two words word"]


@pytest.mark.parametrize(
    "arguments", [{"top_k": 0}, {"top_k": -1}, {"max_passage_chars": 0}, {"max_passage_chars": -1}]
)
def test_limits_that_are_not_positive_are_refused_by_name(tmp_path, arguments):
    (name, value), *_ = arguments.items()
    with pytest.raises(ValueError, match=f"{name}={value}.*expected positive numbers"):
        LocalSearch(write(tmp_path, *DOCUMENTS), **arguments)


def test_the_path_may_be_a_string_relative_or_a_link(tmp_path, monkeypatch):
    write(tmp_path, *DOCUMENTS)
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("corpus.jsonl")
    for path in ("corpus.jsonl", "./corpus.jsonl", "link"):
        assert passages(LocalSearch(path), "eternal") == ["the eternal city"]
    assert len(indexes(tmp_path)) == 1


def test_the_index_is_built_once(tmp_path):
    corpus = write(tmp_path, *DOCUMENTS)
    LocalSearch(corpus)
    [index] = indexes(tmp_path)
    built = index.stat()
    assert passages(LocalSearch(corpus), "eternal") == ["the eternal city"]
    assert indexes(tmp_path) == [index]
    assert (index.stat().st_ino, index.stat().st_mtime_ns) == (built.st_ino, built.st_mtime_ns)


def test_index_is_rebuilt_when_the_corpus_changes_and_old_objects_keep_theirs(tmp_path):
    old = LocalSearch(write(tmp_path, {"contents": "old word"}))
    new = LocalSearch(write(tmp_path, {"contents": "another word"}))
    assert passages(old, "word") == ["old word"]
    assert passages(new, "word") == ["another word"]


def test_a_change_that_keeps_the_size_is_noticed(tmp_path):
    corpus = write(tmp_path, {"contents": "old word"})
    LocalSearch(corpus)
    stamp = corpus.stat().st_mtime_ns
    write(tmp_path, {"contents": "new word"})
    os.utime(corpus, ns=(stamp, stamp + 1))
    assert passages(LocalSearch(corpus), "word") == ["new word"]


def test_indexes_of_earlier_versions_do_not_pile_up(tmp_path):
    for number in range(3):
        LocalSearch(write(tmp_path, {"contents": "word" * (number + 1)}))
    assert len(indexes(tmp_path)) == 1


def test_two_corpora_in_one_folder_do_not_mix(tmp_path):
    first = LocalSearch(write(tmp_path, {"contents": "first word"}, name="a.jsonl"))
    second = LocalSearch(write(tmp_path, {"contents": "other word"}, name="b.jsonl"))
    assert passages(first, "word") == ["first word"]
    assert passages(second, "word") == ["other word"]


async def test_two_objects_on_one_corpus_answer_concurrently(tmp_path):
    corpus = write(tmp_path, *({"contents": f"word{number}"} for number in range(50)))
    tools = [LocalSearch(corpus), LocalSearch(corpus)]
    results = await asyncio.gather(*(tools[number % 2].run(f"word{number}") for number in range(50)))
    assert [result.text for result in results] == [f"Page 1: word{number}" for number in range(50)]


def test_processes_that_start_together_all_get_a_whole_index(tmp_path):
    corpus = write(tmp_path, *({"contents": f"word{number} " * 50} for number in range(500)), {"contents": "last"})
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            is_whole = False
            try:
                is_whole = search(LocalSearch(corpus), "last").text == "Page 1: last"
            finally:
                os._exit(0 if is_whole else 1)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    assert sorted(tmp_path.iterdir()) == [*indexes(tmp_path), corpus]
    assert len(indexes(tmp_path)) == 1


def test_a_spoilt_index_is_the_infrastructures_fault(tmp_path):
    corpus = write(tmp_path, *DOCUMENTS)
    LocalSearch(corpus)
    [path] = indexes(tmp_path)
    (path / "passages.sqlite" if path.is_dir() else path).write_bytes(b"")
    result = search(LocalSearch(corpus), "eternal")
    assert result.status is ToolStatus.INFRASTRUCTURE_ERROR
    assert result.text.startswith("Error: the search index failed: ")


def test_spoilt_arrays_end_the_start_up_with_what_to_delete(tmp_path, engine):
    if engine != "bm25s":
        pytest.skip("only bm25s has arrays")
    corpus = write(tmp_path, *DOCUMENTS)
    LocalSearch(corpus)
    next(indexes(tmp_path)[0].glob("data*")).write_bytes(b"")
    with pytest.raises(DamagedIndexError, match="delete it"):
        LocalSearch(corpus)


def test_read_only_corpus_folder_falls_back_to_the_temporary_directory(public_folder):
    corpus = write(public_folder, *DOCUMENTS)
    corpus.chmod(0o444)
    public_folder.chmod(0o555)
    assert without_root(lambda: search(LocalSearch(corpus), "eternal").text) == "Page 1: (Title: Rome) the eternal city"
    assert list(public_folder.iterdir()) == [corpus]
    assert len(indexes(Path(tempfile.gettempdir()))) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="takes two users, and only root can become another")
def test_an_index_that_another_user_has_put_into_the_temporary_directory_is_not_believed(public_folder):
    corpus = write(public_folder, *DOCUMENTS)
    corpus.chmod(0o444)
    public_folder.chmod(0o555)
    assert without_root(lambda: search(LocalSearch(corpus), "eternal").text) == "Page 1: (Title: Rome) the eternal city"
    [index] = indexes(Path(tempfile.gettempdir()))
    os.chown(index, 0, 0)
    assert "belongs to another user" in without_root(lambda: search(LocalSearch(corpus), "eternal").text)


def test_no_writable_folder_is_an_error_that_says_what_to_do(public_folder):
    corpus = write(public_folder, *DOCUMENTS)
    corpus.chmod(0o444)
    public_folder.chmod(0o555)
    Path(tempfile.gettempdir()).chmod(0o555)
    answer = without_root(lambda: search(LocalSearch(corpus), "eternal").text)
    assert answer.startswith("CorpusError(")
    assert "make its folder or the temporary directory writable" in answer


@pytest.mark.skipif(os.geteuid() != 0, reason="takes two users, and only root can become another")
def test_another_user_can_read_the_index(public_folder):
    corpus = write(public_folder, *DOCUMENTS)
    corpus.chmod(0o444)
    LocalSearch(corpus)
    assert without_root(lambda: search(LocalSearch(corpus), "eternal").text) == "Page 1: (Title: Rome) the eternal city"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o400, 0o660, 0o604])
def test_an_index_can_be_read_by_those_who_can_read_its_corpus_and_by_nobody_else(tmp_path, mode):
    corpus = write(tmp_path, *DOCUMENTS)
    corpus.chmod(mode)
    assert passages(LocalSearch(corpus), "eternal") == ["the eternal city"]
    [path] = indexes(tmp_path)
    for file in (path, *path.glob("*")) if path.is_dir() else (path,):
        assert stat.S_IMODE(file.stat().st_mode) & 0o044 == mode & 0o044
        assert stat.S_IMODE(file.stat().st_mode) & 0o133 == (0o100 | (mode & 0o044) >> 2 if file.is_dir() else 0)


def test_an_index_follows_its_corpus_when_that_is_closed_later(tmp_path):
    corpus = write(tmp_path, *DOCUMENTS)
    corpus.chmod(0o644)
    LocalSearch(corpus)
    corpus.chmod(0o600)
    assert passages(LocalSearch(corpus), "eternal") == ["the eternal city"]
    [path] = indexes(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_an_index_in_the_temporary_directory_is_its_owners_alone(public_folder):
    corpus = write(public_folder, *DOCUMENTS)
    corpus.chmod(0o444)
    public_folder.chmod(0o555)
    without_root(lambda: search(LocalSearch(corpus), "eternal").text)
    [path] = indexes(Path(tempfile.gettempdir()))
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="takes two users, and only root can become another")
def test_an_index_that_root_has_built_can_be_read_by_the_owner_of_a_private_corpus(public_folder):
    corpus = write(public_folder, *DOCUMENTS)
    corpus.chmod(0o600)
    os.chown(corpus, NOBODY, NOBODY)
    LocalSearch(corpus)
    assert without_root(lambda: search(LocalSearch(corpus), "eternal").text) == "Page 1: (Title: Rome) the eternal city"
    assert len(indexes(public_folder)) == 1
