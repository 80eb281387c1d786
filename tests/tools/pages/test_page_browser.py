"""The page browser on local servers: what it reads, whose fault each failure is, the cache and the summary."""

import asyncio

import pytest
from aiohttp import web
from pages import ARTICLE, body_of, browser, children, pdf, read
from tool_servers import Server, answer, page, serving

from arpo_tools import ToolResult, ToolStatus
from arpo_tools.page_browser import PageBrowser

pytest.importorskip("resiliparse", reason="the extra `web` is not installed")
pytest.importorskip("pypdfium2", reason="the extra `web` is not installed")


async def test_an_article_is_its_title_address_and_text_without_navigation():
    async with serving(page(ARTICLE)) as server:
        result = await browser().run(f" {server.url}/paris#top\n")
        assert server.requests[0]["path"] == "/paris"
    assert result.status is ToolStatus.OK
    assert result.text.startswith(f"Paris today\n{server.url}/paris\n\nParis\n\nParis is the capital of France")
    for silent in ("evil", "About us", "Cookie"):
        assert silent not in result.text


async def test_a_page_without_a_main_part_is_read_as_a_whole():
    assert body_of(await read(page("<body><b>just this</b></body>"))) == "just this"


async def test_a_page_for_readers_without_javascript_is_read():
    assert body_of(await read(page("<body><noscript>plain words</noscript></body>"))) == "plain words"


@pytest.mark.parametrize("text", ["", "<html></html>", "<script>only()</script>", "<div> \n </div>"])
async def test_a_page_without_text_is_empty(text):
    assert (await read(page(text))).status is ToolStatus.EMPTY


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        ("甄嬛传导演".encode("gbk"), "text/html; charset=gb2312"),
        ('<meta charset="gbk"><p>甄嬛传导演</p>'.encode("gbk"), "text/html"),
        ('<meta http-equiv="Content-Type" content="text/html; charset=GB2312">甄嬛传导演'.encode("gbk"), "text/html"),
        ("甄嬛传导演".encode(), "text/html; charset=utf-8"),
        ("甄嬛传导演".encode("utf-8-sig"), "text/html; charset=latin-1"),
        ("\ufeff甄嬛传导演".encode("utf-16-le"), "text/html"),
        ("甄嬛傳導演".encode("big5"), "text/html; charset=big5"),
        ("甄嬛传导演".encode(), "text/plain; charset=utf-8"),
        ("甄嬛传导演".encode("gbk"), "text/plain; charset=gbk"),
    ],
)
async def test_the_charset_is_the_marks_the_headers_the_pages_or_the_guessed(data, content_type):
    assert body_of(await read(page(data, content_type))) in ("甄嬛传导演", "甄嬛傳導演")


@pytest.mark.parametrize(
    "charset", ["zip", "idna", "punycode", "unicode_escape", "base64", "no-such", '"', "utf-8-sig"]
)
async def test_a_charset_that_is_none_of_the_webs_is_not_used(charset):
    result = await read(page(b"plain words \\x41", f"text/html; charset={charset}"))
    assert body_of(result) == "plain words \\x41"


@pytest.mark.parametrize(
    ("data", "content_type", "text"),
    [
        ("one\n\ttwo", "text/plain", "one\n\ttwo"),
        ('{"a": 1}', "application/json", '{"a": 1}'),
        ("a,b", "text/csv", "a,b"),
        ("<p>x</p>", "application/xhtml+xml", "x"),
        ("<p>x</p>", "", "x"),
    ],
)
async def test_text_of_other_types_is_read(data, content_type, text):
    assert body_of(await read(page(data, content_type))) == text


@pytest.mark.parametrize("content_type", ["image/png", "application/zip", "video/mp4", "application/octet-stream"])
async def test_other_types_are_the_models_error(content_type):
    result = await read(page(b"\x89PNG\r\n", content_type))
    assert result.status is ToolStatus.MODEL_ERROR


async def test_binary_data_without_a_type_is_the_models_error():
    assert (await read(page(b"\0\1\2\3" * 100, ""))).status is ToolStatus.MODEL_ERROR


async def test_what_the_model_sees_is_cut_and_the_cut_is_marked():
    result = await read(page("<p>" + "word " * 1000), max_chars=50)
    assert body_of(result) == ("word " * 10) + "\n...(page cut)"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 429, 500, 503])
async def test_an_error_page_is_the_models_error_with_its_number(status):
    result = await read(answer("<p>gone</p>", status))
    assert result == ToolResult(f"Error: the page's server answered HTTP {status}", ToolStatus.MODEL_ERROR)


@pytest.mark.parametrize(
    "text", ["", " ", "what is this", "http://", "http:///x", "https://[", "http://a b", "x" * 100_000]
)
async def test_what_is_no_address_is_the_models_error(text):
    assert (await browser().run(text)).status is ToolStatus.MODEL_ERROR


@pytest.mark.parametrize("content_type", ["application/pdf", "application/octet-stream", ""])
async def test_a_pdf_is_the_text_of_its_pages(content_type):
    result = await read(page(pdf("first page", "second page"), content_type))
    assert result.text.split("\n\n")[-2:] == ["first page", "second page"]


async def test_a_pdf_without_text_is_empty():
    assert (await read(page(pdf(""), "application/pdf"))).status is ToolStatus.EMPTY


async def test_many_pages_at_once_share_the_workers_and_get_their_own_text():
    async def numbered(request: web.Request) -> web.StreamResponse:
        return web.Response(text=f"<p>page {request.path[1:]}</p>", content_type="text/html")

    before = children()
    tool = browser(workers=2)
    async with serving(numbered) as server:
        results = await asyncio.gather(*(tool.run(f"{server.url}/{number}") for number in range(40)))
    assert [body_of(result) for result in results] == [f"page {number}" for number in range(40)]
    assert len(children() - before) == 2


def test_it_runs_on_the_event_loop_of_rays_actors():
    uvloop = pytest.importorskip("uvloop", reason="comes with Ray's and vLLM's requirements")

    async def calls() -> list[ToolResult]:
        async with serving(page(ARTICLE)) as server:
            tool = browser()
            return await asyncio.gather(*(tool.run(server.url) for _ in range(8)))

    loop = uvloop.new_event_loop()
    try:
        results = loop.run_until_complete(calls())
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
    assert {result.status for result in results} == {ToolStatus.OK}


async def test_a_page_is_fetched_once_where_there_is_a_cache(tmp_path):
    async with serving(page(ARTICLE)) as server:
        tool = browser(cache=str(tmp_path / "cache.sqlite"))
        first, second = await tool.run(server.url), await tool.run(server.url)
        assert len(server.requests) == 1
        assert (await tool.run(f"{server.url}/other")).status is ToolStatus.OK
        assert len(server.requests) == 2
    assert first == second


async def test_a_failure_is_not_cached(tmp_path):
    async with serving(answer("no", 500), page(ARTICLE)) as server:
        tool = browser(cache=str(tmp_path / "cache.sqlite"))
        assert (await tool.run(server.url)).status is ToolStatus.MODEL_ERROR
        assert (await tool.run(server.url)).status is ToolStatus.OK


def said(text: object) -> dict[str, object]:
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


async def summed_up(model: Server, text: str, monkeypatch) -> ToolResult:
    monkeypatch.setenv("SUMMARY_KEY", "k3y")
    summarizer = {"base_url": f"{model.url}/v1", "model": "m", "key_variable": "SUMMARY_KEY"}
    async with serving(page(ARTICLE)) as server:
        return await browser(summarizer=summarizer).run(text.format(url=server.url))


async def test_a_summary_is_asked_for_with_the_page_and_the_question(monkeypatch):
    async with serving(answer(said(" It is Paris.\n"))) as model:
        result = await summed_up(model, "{url} What is the capital?", monkeypatch)
    assert (body_of(result), result.status) == ("It is Paris.", ToolStatus.OK)
    [request] = model.requests
    assert request["path"] == "/v1/chat/completions"
    assert request["headers"]["Authorization"] == "Bearer k3y"
    [message] = request["json"]["messages"]
    assert "What is the capital?" in message["content"]
    assert "Paris is the capital of France" in message["content"]


@pytest.mark.parametrize("broken", [{}, said(None), said(""), {"choices": []}, [1], "<html>"])
async def test_without_a_summary_the_page_itself_is_shown_and_the_failure_counted(broken, monkeypatch):
    async with serving(answer(broken)) as model:
        result = await summed_up(model, "{url}", monkeypatch)
    assert result.status is ToolStatus.INFRASTRUCTURE_ERROR
    assert "Paris is the capital of France" in result.text


async def test_a_page_with_braces_does_not_break_the_prompt(monkeypatch):
    async with serving(answer(said("ok"))) as model, serving(page("<p>{0} {task} {text}</p>")) as server:
        summarizer = {"base_url": model.url, "model": "m"}
        result = await browser(summarizer=summarizer).run(f"{server.url} {{text}}")
    assert result.status is ToolStatus.OK
    assert "{0} {task} {text}" in model.requests[0]["json"]["messages"][0]["content"]


def test_without_its_extra_the_browser_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"arpo-verl\[web\]"):
        PageBrowser()


@pytest.mark.parametrize(
    "options",
    [
        {"max_chars": 0},
        {"fetch_seconds": -1},
        {"read_seconds": 0},
        {"workers": 0},
        {"max_chars": 1_000_000},
        {"allowed_networks": ["10.0.0.1/8"]},
        {"summarizer": {"base_url": "localhost", "model": "m"}},
        {"summarizer": {"base_url": "http://x", "model": "m", "key_variable": "NO_SUCH_VARIABLE"}},
    ],
)
def test_options_that_cannot_work_are_refused_at_once(options):
    with pytest.raises(ValueError):
        PageBrowser(**options)
