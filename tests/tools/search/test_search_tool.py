"""The search tool over scripted back-ends: cache, equal queries at once, replay, display, and options."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tool_servers import answer, serving

from arpo_tools import ToolResult, ToolStatus
from arpo_tools.cache import SearchCache
from arpo_tools.cache.__main__ import main
from arpo_tools.search import BACKENDS, BackendSearch, Passage, SearchError, open_search
from arpo_tools.search.tool import Display
from arpo_tools.search.words import fold, words_of_passage, words_of_query

DOWN = SearchError("scripted: down", ToolStatus.INFRASTRUCTURE_ERROR)


class Scripted:
    """A back-end that takes a moment and answers as `script` says."""

    name = "scripted"
    default_top_k = 10

    def __init__(self, script: Callable[[str], list[Passage] | Exception], **parameters: str) -> None:
        self.script = script
        self.parameters = parameters
        self.queries: list[str] = []

    async def search(self, query: str, top_k: int) -> list[Passage]:
        self.queries.append(query)
        await asyncio.sleep(0.01)
        result = self.script(query)
        if isinstance(result, Exception):
            raise result
        return result[:top_k]


def echo(query: str) -> list[Passage]:
    return [Passage(f"about {query}", "Title", "https://x.org/")]


@pytest.fixture
def cache(tmp_path) -> SearchCache:
    return SearchCache(tmp_path / "cache.sqlite")


async def test_the_second_equal_query_is_answered_from_the_cache(cache):
    backend = Scripted(echo)
    tool = BackendSearch(backend, cache=cache)
    first, second = await tool.run("Paris"), await tool.run(" paris ")
    assert first == second == ToolResult("Page 1: about Paris")
    assert backend.queries == ["Paris"]


async def test_tools_with_other_parameters_do_not_share_answers(cache):
    backends = [Scripted(echo), Scripted(echo, country="de")]
    for backend in backends:
        await BackendSearch(backend, cache=cache).run("paris")
    await BackendSearch(backends[0], cache=cache, top_k=3).run("paris")
    assert [len(backend.queries) for backend in backends] == [2, 1]


async def test_failures_are_not_stored(cache):
    outcomes = [DOWN, RuntimeError("a bug"), [Passage("at last")]]
    tool = BackendSearch(Scripted(lambda query: outcomes.pop(0)), cache=cache)
    statuses = [(await tool.run("paris")).status for _ in range(4)]
    assert statuses == [ToolStatus.INFRASTRUCTURE_ERROR] * 2 + [ToolStatus.OK] * 2


async def test_an_empty_answer_is_stored_for_its_time(tmp_path):
    for seconds, calls in ((3600.0, 1), (0.0, 2)):
        backend = Scripted(lambda query: [])
        tool = BackendSearch(backend, cache=SearchCache(tmp_path / f"{seconds}.sqlite", seconds))
        statuses = [(await tool.run("paris")).status for _ in range(2)]
        assert statuses == [ToolStatus.EMPTY] * 2
        assert len(backend.queries) == calls


async def test_equal_queries_at_the_same_time_share_one_call(cache):
    backend = Scripted(echo)
    tool = BackendSearch(backend, cache=cache)
    results = await asyncio.gather(*(tool.run("paris") for _ in range(16)), tool.run("rome"))
    assert [result.text for result in results] == ["Page 1: about paris"] * 16 + ["Page 1: about rome"]
    assert sorted(backend.queries) == ["paris", "rome"]


async def test_after_a_failure_each_of_the_waiting_queries_asks_by_itself_at_the_same_time(cache):
    backend = Scripted(lambda query: DOWN if len(backend.queries) == 1 else [Passage("found")])
    tool = BackendSearch(backend, cache=cache)
    results = await asyncio.gather(*(tool.run("paris") for _ in range(4)))
    statuses = [result.status for result in results]
    assert statuses.count(ToolStatus.OK) == 3
    assert len(backend.queries) == 4


async def test_a_cancelled_first_query_does_not_hold_up_the_others(cache):
    backend = Scripted(echo)
    tool = BackendSearch(backend, cache=cache)
    first = asyncio.create_task(tool.run("paris"))
    while not backend.queries:
        await asyncio.sleep(0)
    second = asyncio.create_task(tool.run("paris"))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (await asyncio.wait_for(second, 10)).status is ToolStatus.OK


async def test_a_spoilt_cache_costs_a_call_and_nothing_else(cache):
    backend = Scripted(echo)
    tool = BackendSearch(backend, cache=cache)
    cache.require_file().run(lambda connection: connection.execute("DROP TABLE answers"))
    statuses = [(await tool.run("paris")).status for _ in range(8)]
    assert statuses == [ToolStatus.OK] * 8
    assert len(backend.queries) == 8


async def test_what_a_backend_raises_is_a_result():
    result = await BackendSearch(Scripted(lambda query: KeyError("bug"))).run("paris")
    assert result == ToolResult("Error: the search failed: KeyError", ToolStatus.INFRASTRUCTURE_ERROR)


@pytest.mark.parametrize("query", ["", " ", "\n\t", "\0", "\x7f"])
async def test_a_query_without_text_is_the_models_error(query):
    backend = Scripted(echo)
    assert (await BackendSearch(backend).run(query)).status is ToolStatus.MODEL_ERROR
    assert backend.queries == []


async def test_long_queries_are_cut_and_lines_joined():
    backend = Scripted(echo)
    await BackendSearch(backend).run("a\r\nb\0c " + "x" * 1_000_000)
    [query] = backend.queries
    assert query == "a b c " + "x" * 994


def test_passages_are_cut_and_addresses_shown_on_demand():
    passages = [Passage("abcdef", "Title", "https://x.org/"), Passage("g")]
    assert Display(max_passage_chars=3).text_of(passages) == "Page 1: abc\nPage 2: g"
    shown = Display(show_urls=True).text_of(passages[:1])
    assert shown == "Page 1: Title (https://x.org/)\nabcdef"


@pytest.mark.parametrize(
    ("title", "text", "shown"),
    [
        ("Ada Lovelace", "She was born in 1815", "(Title: Ada Lovelace) She was born in 1815"),
        ("Ada\n Lovelace", "She was born", "(Title: Ada Lovelace) She was born"),
        ("Paris", "Paris is the capital", "Paris is the capital"),
        ("Paris", '"Paris"\nThe capital', '"Paris"\nThe capital'),
        ("Paris", "Parisian life", "(Title: Paris) Parisian life"),
        ("Paris (Texas)", "Paris is a city", "(Title: Paris (Texas)) Paris is a city"),
        ("", "no title", "no title"),
        ("T" * 300, "x", f"(Title: {'T' * 200}) x"),
    ],
)
def test_a_document_is_shown_with_its_title_unless_it_begins_with_it(title, text, shown):
    assert Display().text_of([Passage(text, title, is_document=True)]) == f"Page 1: {shown}"


async def test_two_documents_can_be_told_apart_in_both_engines(tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    documents = [
        {"title": "Ada Lovelace", "contents": "She was born in 1815."},
        {"title": "Grace Hopper", "contents": "She was born in 1906."},
    ]
    corpus.write_text("".join(json.dumps(document) + "\n" for document in documents))
    for engine in ("fts5", "auto"):
        text = (await open_search("local", corpus=corpus, engine=engine).run("born")).text
        assert "(Title: Ada Lovelace) She was born in 1815." in text
        assert "(Title: Grace Hopper) She was born in 1906." in text


@pytest.mark.parametrize(
    ("item", "shown"),
    [
        ({"document": {"contents": '"Ada"\nShe was born'}, "score": 1.0}, "(Title: Ada) She was born"),
        ({"document": {"title": "Ada", "contents": "She was born"}}, "(Title: Ada) She was born"),
        ({"document": {"title": "Ada", "text": "She was born"}}, "(Title: Ada) She was born"),
        ({"contents": '"The "Ada" Book"\nShe was born'}, '(Title: The "Ada" Book) She was born'),
        ({"contents": "Ada\nShe was born"}, "Ada\nShe was born"),
        ({"title": "Ada", "contents": "Ada was born"}, "Ada was born"),
    ],
)
async def test_a_retrieval_servers_titles_are_shown_live_cached_and_replayed(item, shown, tmp_path):
    path = str(tmp_path / "cache.sqlite")
    async with serving(answer({"result": [[item]]})) as server:
        tool = open_search("retrieval_server", base_url=server.url, cache=path)
        texts = [(await tool.run("ada")).text, (await tool.run("ada")).text]
        assert len(server.requests) == 1
    texts.append((await open_search("replay", cache=path).run("ada")).text)
    assert texts == [f"Page 1: {shown}"] * 3


async def test_replay_answers_as_before_without_the_service_and_refuses_the_rest(tmp_path, monkeypatch):
    monkeypatch.setenv("SERPER_API_KEY", "k3y")
    path = str(tmp_path / "cache.sqlite")
    full = {"organic": [{"title": "Paris", "link": "https://p.org/", "snippet": "The capital of France."}]}
    async with serving(answer(full), answer({"organic": []})) as server:
        live = open_search("serper", base_url=server.url, cache=path)
        lived = [await live.run("paris"), await live.run("nothing")]
    monkeypatch.delenv("SERPER_API_KEY")
    replay = open_search("replay", cache=path)
    assert [await replay.run("PARIS"), await replay.run("nothing")] == lived
    assert (await replay.run("rome")).status is ToolStatus.INFRASTRUCTURE_ERROR
    assert (await open_search("replay", cache=path, of="brave").run("paris")).status is ToolStatus.INFRASTRUCTURE_ERROR


async def test_replay_of_the_released_projects_cache(tmp_path):
    file = tmp_path / "search_cache.json"
    file.write_text(json.dumps({"Who?": "Page 1: one\nPage 2: two"}))
    path = tmp_path / "cache.sqlite"
    main(["import", str(file), "--cache", str(path)])
    assert (await open_search("replay", cache=path).run("who?")).text == "Page 1: one\nPage 2: two"
    assert (await open_search("replay", cache=path, top_k=1).run("who?")).text == "Page 1: one"


async def test_replay_changes_nothing_and_needs_no_right_to(tmp_path):
    folder = tmp_path / "read-only"
    folder.mkdir()
    cache = SearchCache(folder / "cache.sqlite")
    tool = BackendSearch(Scripted(echo), cache=cache)
    await tool.run("paris")
    cache.close()
    (folder / "cache.sqlite.lock").unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    folder.chmod(0o555)
    assert (await open_search("replay", cache=folder / "cache.sqlite").run("paris")).text == "Page 1: about paris"
    folder.chmod(0o755)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if "-" not in path.name} == before


@pytest.mark.parametrize("content", [None, b"", b"garbage " * 1000])
def test_replay_of_what_is_no_cache_ends_the_start_up(tmp_path, content):
    path = tmp_path / "cache.sqlite"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError):
        open_search("replay", cache=path)


def test_every_backend_is_opened_by_its_name(tmp_path, monkeypatch):
    for variable in ("SERPER_API_KEY", "TAVILY_API_KEY", "BRAVE_API_KEY", "BRIGHTDATA_API_KEY"):
        monkeypatch.setenv(variable, "k3y")
    monkeypatch.setenv("ARPO_TOOLS_CACHE", str(tmp_path / "caches"))
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"contents": "x"}\n')
    SearchCache(tmp_path / "replay.sqlite")
    options = {
        "local": {"corpus": corpus},
        "replay": {"cache": tmp_path / "replay.sqlite"},
        "searxng": {"base_url": "http://x/"},
        "retrieval_server": {"base_url": "http://x"},
        "brightdata": {"zone": "z"},
    }
    names = [open_search(backend, **options.get(backend, {})).backend.name for backend in BACKENDS]
    assert names == list(BACKENDS)
    assert (tmp_path / "caches" / "search.sqlite").is_file()


@pytest.mark.parametrize(
    ("backend", "options", "words"),
    [
        ("google", {}, "expected one of local"),
        ("local", {}, "corpus"),
        ("local", {"corpus": "/no/corpus"}, "is not a file"),
        ("local", {"corpus": "x", "colour": 1}, "colour"),
        ("local", {"corpus": "x", "cache": "x"}, "cache"),
        ("serper", {}, "SERPER_API_KEY is not set"),
        ("serper", {"key": "k3y"}, "give it as"),
        ("brave", {"base_url": "search.brave.com"}, "base_url"),
        ("searxng", {}, "base_url"),
        ("searxng", {"base_url": "http://x", "top_k": 0}, "top_k"),
        ("searxng", {"base_url": "http://x", "attempts": 0}, "attempts"),
        ("searxng", {"base_url": "http://x", "total_seconds": -1}, "total_seconds"),
        ("searxng", {"base_url": "http://x", "max_passage_chars": 0}, "max_passage_chars"),
        ("searxng", {"base_url": "http://x", "languge": "en"}, "language"),
        ("replay", {}, "cache"),
    ],
)
def test_options_that_cannot_work_are_refused_at_once(backend, options, words, monkeypatch):
    monkeypatch.delenv("SERPER_API_KEY", raising=False)
    monkeypatch.setenv("BRAVE_API_KEY", "k3y")
    with pytest.raises(ValueError, match=words):
        open_search(backend, **{"cache": None, **options} if backend in ("serper", "brave", "searxng") else options)


def test_brightdata_needs_a_zone_and_knows_two_engines(monkeypatch):
    monkeypatch.setenv("BRIGHTDATA_API_KEY", "k3y")
    with pytest.raises(ValueError, match="zone"):
        open_search("brightdata", cache=None)
    with pytest.raises(ValueError, match="google or bing"):
        open_search("brightdata", zone="z", engine="yahoo", cache=None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Paris, France", ["paris", "france"]),
        ("ZÜRICH Straße ＡＢＣ ﬁ", ["zurich", "strasse", "abc", "fi"]),
        ("甄嬛传导演", ["甄嬛", "嬛传", "传导", "导演"]),
        ("龙", ["龙"]),
        ("B2B电商2024", ["b2b", "电商", "2024"]),
        ("東京タワー", ["東京", "京タ", "タワ", "ワー"]),
        ("서울시", ["서울", "울시"]),
        ("กรุงเทพ", ["กร", "รุ", "ุง", "งเ", "เท", "ทพ"]),
        ("नई दिल्ली", ["नई", "दिल्ली"]),
        ("שָׁלוֹם", ["שלום"]),
        ("snake_case x.y", ["snake", "case", "x", "y"]),
        ("the the THE", ["the"]),
        ("\ud800 a\0b", ["a", "b"]),
        ("!?* \n", []),
    ],
)
def test_words_of_a_query(text, words):
    assert words_of_query(text, 64) == words


def test_a_passage_has_single_characters_too_and_every_word_as_often_as_it_stands_there():
    assert list(words_of_passage("龙城 a a")) == ["龙", "城", "龙城", "a", "a"]


def test_words_of_a_query_are_limited():
    assert words_of_query("甲乙丙丁戊", 2) == ["甲乙", "乙丙"]
    assert len(words_of_query(" ".join(map(str, range(10_000))), 64)) == 64


def test_folding_is_stable():
    for text in ("İstanbul", "ǅ", "ﷺ", "Ⅷ", "서울", "é\u0301"):
        assert fold(fold(text)) == fold(text)


@pytest.mark.parametrize("engine", ["bm25s", "fts5"])
@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("甄嬛传导演", "郑晓龙"),
        ("谁导演了甄嬛传？", "郑晓龙"),
        ("龙", "郑晓龙"),
        ("capital FRANCE", "Paris"),
        ("ภาษาไทย", "ไทย"),
    ],
)
async def test_a_corpus_in_many_scripts_is_searched_by_both_engines(tmp_path: Path, engine, query, found):
    if engine == "bm25s":
        pytest.importorskip("bm25s", reason="the extra `search` is not installed")
    corpus = tmp_path / "corpus.jsonl"
    documents = [
        "甄嬛传是郑晓龙执导的电视剧",
        "红楼梦是曹雪芹写的小说",
        "传说中的演员",
        "Paris, capital of France",
        "เรียนภาษาไทยง่าย ๆ",
    ]
    corpus.write_text("".join(json.dumps({"contents": text}) + "\n" for text in documents))
    result = await open_search("local", corpus=corpus, engine=engine, top_k=1).run(query)
    assert found in result.text


def test_bm25s_where_it_is_not_installed_is_refused_with_the_extras_name(tmp_path, monkeypatch):
    monkeypatch.setattr("arpo_tools.search.open_index.is_bm25s_installed", lambda: False)
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"contents": "x"}\n')
    with pytest.raises(ValueError, match=r"arpo-verl\[search\]"):
        open_search("local", corpus=corpus, engine="bm25s")
    open_search("local", corpus=corpus, engine="auto")


def test_an_unknown_engine_is_refused(tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"contents": "x"}\n')
    with pytest.raises(ValueError, match="auto, bm25s, fts5"):
        open_search("local", corpus=corpus, engine="lucene")


async def test_common_words_do_not_hide_the_rare_one(tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    with corpus.open("w") as file:
        for number in range(5_000):
            file.write(json.dumps({"contents": f"the common words of every passage w{number}"}) + "\n")
    tool = open_search("local", corpus=corpus, engine="fts5", top_k=1)
    assert (await tool.run("the common w4321 words")).text.endswith("w4321")
    assert (await tool.run("the of")).status is ToolStatus.OK
