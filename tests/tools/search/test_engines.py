"""The HTTP search engines against servers that answer as the real ones do, and as they should not."""

import asyncio
import gc
import json
import logging
import os
import resource
import time
import warnings
import zlib
from dataclasses import replace
from typing import Any

import pytest
import stamina
from aiohttp import web
from search_cases import CASES, REQUESTS, TWO, Case
from tool_servers import answer, cut_short, never, serving, speaking

from arpo_tools import ToolResult, ToolStatus
from arpo_tools.http.retry import retry_after
from arpo_tools.search import BackendSearch, open_search
from arpo_tools.search.engines import ENGINES_AND_KEYS

pytestmark = pytest.mark.slow

KEY = "k3y-0f-t3st"


IMPATIENT = {"attempt_seconds": 0.3, "total_seconds": 3.0, "attempts": 3}


@pytest.fixture(autouse=True)
def quick_retries():
    """Retries without the waits between them."""
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


@pytest.fixture
def true_waits(quick_retries):
    with stamina.set_testing(False):
        yield


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request, monkeypatch) -> Case:
    if request.param.variable:
        monkeypatch.setenv(request.param.variable, KEY)
    return request.param


def tool_of(case: Case, url: str, **options: Any) -> BackendSearch:
    return open_search(case.name, base_url=url, **dict(case.options), **{"cache": None, **IMPATIENT, **options})


async def asked(case: Case, *answers: Any, **options: Any) -> tuple[ToolResult, int]:
    """Return the tool's result and how often the server was asked."""
    async with serving(*answers) as server:
        result = await tool_of(case, server.url, **options).run("paris")
        return result, len(server.requests)


def titled(case: Case, title: str) -> str:
    """What stands before a passage: the title of a corpus's document, nothing with a web engine."""
    return f"(Title: {title}) " if case.name == "retrieval_server" else ""


async def test_two_results_become_two_pages(case):
    result, _ = await asked(case, answer(case.full))
    first = f"Page 1: {titled(case, 'Paris')}The capital of France."
    second = f"Page 2: {titled(case, 'Paris (Texas)')}A city in Texas."
    assert result == ToolResult(f"{first}\n{second}", ToolStatus.OK)


@pytest.mark.parametrize("status", [201, 202, 203, 206, 226])
async def test_an_answer_through_a_proxy_that_changes_the_status_is_an_answer(case, status):
    result, calls = await asked(case, answer(case.full, status))
    assert (result.status, calls) == (ToolStatus.OK, 1)


@pytest.mark.parametrize("encoding", ["utf-8", "UTF-8", "none", "binary", "identity", "text/html", ","])
async def test_a_content_encoding_that_is_none_does_no_harm(case, encoding):
    result, calls = await asked(case, answer(case.full, Content_Encoding=encoding))
    assert (result.status, calls) == (ToolStatus.OK, 1)


async def test_titles_and_addresses_are_read_too(case):
    async with serving(answer(case.full)) as server:
        backend = tool_of(case, server.url).backend
        is_document = case.name == "retrieval_server"
        assert await backend.search("paris", 10) == [replace(passage, is_document=is_document) for passage in TWO]


async def test_at_most_top_k_results_are_shown(case):
    result, _ = await asked(case, answer(case.full), top_k=1)
    assert result.text == f"Page 1: {titled(case, 'Paris')}The capital of France."


async def test_an_answer_without_results_is_empty(case):
    result, calls = await asked(case, answer(case.empty))
    assert (result.status, calls) == (ToolStatus.EMPTY, 1)


@pytest.mark.parametrize("status", [401, 402, 403])
async def test_a_refusal_is_not_retried_and_says_what_to_fix(case, status):
    result, calls = await asked(case, answer({"message": "no"}, status))
    assert (result.status, calls) == (ToolStatus.REFUSED, 1)
    assert (case.variable or "check that" if case.name != "searxng" else "settings.yml") in result.text


async def test_429_is_retried_when_its_server_says(case, true_waits):
    loop = asyncio.get_running_loop()
    start = loop.time()
    result, calls = await asked(case, answer("slow down", 429, Retry_After="1"), answer(case.full))
    assert (result.status, calls) == (ToolStatus.OK, 2)
    assert loop.time() - start >= 1.0


async def test_429_is_not_retried_when_the_wait_is_longer_than_the_time_that_is_left(case, true_waits):
    loop = asyncio.get_running_loop()
    start = loop.time()
    result, calls = await asked(case, answer("slow down", 429, Retry_After="3600"), answer(case.full))
    assert (result.status, calls) == (ToolStatus.INFRASTRUCTURE_ERROR, 1)
    assert loop.time() - start < 3.0


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_server_error_is_retried(case, status):
    result, calls = await asked(case, answer("oops", status), answer(case.full))
    assert (result.status, calls) == (ToolStatus.OK, 2)


async def test_retries_end(case):
    result, calls = await asked(case, answer("oops", 500))
    assert (result.status, calls) == (ToolStatus.INFRASTRUCTURE_ERROR, 3)


@pytest.mark.parametrize("status", [301, 302, 400, 404, 422])
async def test_other_statuses_are_not_retried_and_redirects_not_followed(case, status):
    result, calls = await asked(case, answer("what?", status, Location="/elsewhere"), answer(case.full))
    assert (result.status, calls) == (ToolStatus.INFRASTRUCTURE_ERROR, 1)


async def test_a_time_out_is_retried(case):
    result, calls = await asked(case, never, answer(case.full))
    assert (result.status, calls) == (ToolStatus.OK, 2)


async def test_a_server_that_hangs_ends_in_a_time_out_within_the_total_time(case, true_waits):
    loop = asyncio.get_running_loop()
    start = loop.time()
    result, _ = await asked(case, never, attempts=100, total_seconds=1.0)
    assert result.status is ToolStatus.INFRASTRUCTURE_ERROR
    assert loop.time() - start < 2.5


async def test_an_answer_cut_short_is_retried(case):
    result, calls = await asked(case, cut_short, answer(case.full))
    assert (result.status, calls) == (ToolStatus.OK, 2)


@pytest.mark.parametrize(
    "body",
    [
        '{"organic": [{"title": "Pa',
        "<!DOCTYPE html><html><body>Just a moment...</body></html>",
        "",
        "null",
        "[]",
        "3",
        '{"message": "internal"}',
        '{"organic": 3, "results": 3, "web": 3, "result": 3}',
        '{"organic": {"a": 1}, "results": {}, "web": [], "result": {}}',
        '{"result": [[], []], "error": "two lists for one query"}',
        "[" * 100_000,
        '"\\ud83d"',
    ],
    ids=lambda body: body[:20] or "nothing",
)
async def test_an_answer_of_another_shape_is_the_infrastructures_fault_and_never_empty(case, body):
    result, calls = await asked(case, answer(body))
    assert (result.status, calls) == (ToolStatus.INFRASTRUCTURE_ERROR, 1)


async def test_results_of_another_shape_are_left_out(case):
    junk = [None, 3, "x", [], {}, {"title": 3, "snippet": ["x"], "content": {}, "description": None}]
    full = {
        "organic": junk,
        "results": junk,
        "web": {"results": junk},
        "result": [junk],
        "type": "search",
        "general": {},
    }
    result, _ = await asked(case, answer(full))
    assert result.status in (ToolStatus.EMPTY, ToolStatus.OK)
    assert "3" not in result.text


async def test_a_dead_server_is_the_infrastructures_fault(case):
    async with serving(never) as server:
        url = server.url
    result = await tool_of(case, url).run("paris")
    assert result.status is ToolStatus.INFRASTRUCTURE_ERROR


async def test_a_server_that_is_no_web_server_is_the_infrastructures_fault(case):
    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.9\r\n")
        writer.close()

    async with speaking(garbage) as url:
        result = await tool_of(case, url).run("paris")
    assert result.status is ToolStatus.INFRASTRUCTURE_ERROR


async def test_an_answer_without_end_is_cut_off(case):
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        try:
            while True:
                writer.write(b" " * 65536)
                await writer.drain()
        except OSError:
            pass

    async with speaking(flood) as url:
        result = await tool_of(case, url, attempt_seconds=20.0, total_seconds=30.0).run("paris")
    assert result.status is ToolStatus.INFRASTRUCTURE_ERROR
    assert "more than 4 MB" in result.text


async def test_the_key_is_sent_and_nowhere_shown(case, caplog):
    caplog.set_level(logging.DEBUG)
    if case.variable is None:
        pytest.skip("has no key")
    async with serving(
        answer({"echo": f"bad key {KEY}"}, 401), answer(f"you sent {KEY}", 400), answer([KEY])
    ) as server:
        tool = tool_of(case, server.url)
        results = [await tool.run("paris") for _ in range(3)]
    assert KEY in str(server.requests[0]["headers"])
    assert [result for result in results if KEY in result.text] == []
    assert KEY not in caplog.text
    assert KEY not in repr(ENGINES_AND_KEYS[case.name][0](key=KEY, **dict(case.options)))


async def test_lone_surrogates_in_an_answer_are_replaced(case):
    async def give(request: web.Request) -> web.StreamResponse:
        text = json.dumps(case.full).replace("France", "\\ud83d")
        return web.Response(text=text, content_type="application/json")

    result, _ = await asked(case, give)
    assert result.text.startswith(f"Page 1: {titled(case, 'Paris')}The capital of ?.")


async def test_each_engine_is_asked_in_its_own_way(case):
    async with serving(answer(case.full)) as server:
        await tool_of(case, server.url).run(" paris\n")
    [request] = server.requests
    sent = (request["method"], request["path"], request["params"], request["json"])
    assert sent == REQUESTS[case.name]


@pytest.mark.parametrize(
    "query",
    [
        "a" * 1_000_000,
        "\0\ud800 x",
        "'; DROP TABLE answers; --",
        '{"q": 1}',
        "a\r\nX-Evil: 1",
        "甄嬛传导演",
        "%s%00&q=2",
    ],
)
async def test_hostile_queries_arrive_as_one_short_text(case, query):
    async with serving(answer(case.empty)) as server:
        result = await tool_of(case, server.url).run(query)
    assert result.status is ToolStatus.EMPTY
    [request] = server.requests
    assert "X-Evil" not in request["headers"]
    assert len(str(request["json"]) + str(request["params"])) < 4000


async def test_a_key_with_a_line_break_is_refused_by_its_name_alone(monkeypatch):
    monkeypatch.setenv("SERPER_API_KEY", f"{KEY}\nX-Evil: 1")
    with pytest.raises(ValueError, match="SERPER_API_KEY holds characters") as raised:
        open_search("serper", cache=None)
    assert KEY not in str(raised.value)


def test_a_key_from_a_file_may_end_with_a_line_break(monkeypatch):
    monkeypatch.setenv("SERPER_API_KEY", f"{KEY}\n")
    open_search("serper", cache=None)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("3", 3.0), (" 0 ", 0.0), (None, None), ("soon", None), ("-1", None), ("nan", None), ("1e9", None), ("²", None)],
)
def test_retry_after_is_a_number_of_seconds(header, seconds):
    assert retry_after(header) == seconds


def test_retry_after_may_be_a_date_and_a_past_one_means_now():
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert retry_after("Wed, 21 Oct 2099 07:28:00 GMT") > 1e9
    assert retry_after("Wed, 99 Oct 99999 07:28:00 GMT") is None


async def test_an_answer_that_unpacks_to_200_mb_is_cut_off_without_being_held():
    step = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(step.compress(b" " * 1_000_000) for _ in range(200)) + step.flush()

    async def give(request: web.Request) -> web.StreamResponse:
        return web.Response(body=bomb, headers={"Content-Encoding": "gzip", "Content-Type": "application/json"})

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with serving(give) as server:
        result = await open_search("searxng", base_url=server.url, cache=None).run("paris")
    assert result.status is ToolStatus.INFRASTRUCTURE_ERROR
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB


async def test_cancelled_calls_leave_no_connection():
    async with serving(never) as server:
        tool = open_search("searxng", base_url=server.url, cache=None)
        before = len(os.listdir("/proc/self/fd"))
        calls = [asyncio.create_task(tool.run(str(number))) for number in range(50)]
        while len(server.requests) < 50:
            await asyncio.sleep(0.01)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        deadline = time.monotonic() + 10
        while len(os.listdir("/proc/self/fd")) > before + 50 and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        # The server's ends stay open until its handlers end.
        assert len(os.listdir("/proc/self/fd")) <= before + 50


async def test_a_tool_that_is_dropped_closes_its_session():
    complaints: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: complaints.append(context["message"]))
    gc.collect()  # what other tests have dropped
    async with serving(answer(CASES[4].full)) as server:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            tool = open_search("searxng", base_url=server.url, cache=None)
            assert (await tool.run("paris")).status is ToolStatus.OK
            del tool
            gc.collect()
            await asyncio.sleep(0.05)
            gc.collect()
    assert complaints == []
    assert [warning for warning in caught if warning.category is ResourceWarning] == []


def test_it_runs_on_the_event_loop_of_rays_actors(tmp_path):
    uvloop = pytest.importorskip("uvloop", reason="comes with Ray's and vLLM's requirements")

    async def calls() -> list[ToolResult]:
        async with serving(answer(CASES[4].full)) as server:
            tool = open_search("searxng", base_url=server.url, cache=str(tmp_path / "cache.sqlite"))
            return await asyncio.gather(*(tool.run(f"q{number % 8}") for number in range(32)))

    loop = uvloop.new_event_loop()
    try:
        results = loop.run_until_complete(calls())
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
    assert [result.status for result in results] == [ToolStatus.OK] * 32


async def test_one_tool_works_in_one_loop_after_another_and_leaves_no_session_open(monkeypatch):
    monkeypatch.setenv("SERPER_API_KEY", KEY)
    case = CASES[0]

    async def once() -> list[str]:
        complaints: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context["message"]))
        async with serving(answer(case.full)) as server:
            result = await tool_of(case, server.url).run("paris")
        return [*complaints, result.status.value]

    for _ in range(2):
        assert await asyncio.to_thread(lambda: asyncio.run(once())) == ["ok"]
