"""The page browser on local servers: what it reads, whose fault each failure is, and hostile servers and documents."""

import asyncio
import gzip
import os
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web
from tool_servers import Server, answer, never, page, serving, speaking

from arpo_tools import ToolResult, ToolStatus
from arpo_tools.page_browser import PageBrowser

pytest.importorskip("resiliparse", reason="the extra `web` is not installed")
pytest.importorskip("pypdfium2", reason="the extra `web` is not installed")

HERE = ["127.0.0.1/32"]
PARAGRAPH = "Paris is the capital of France and its largest city. " * 5
ARTICLE = f"""<!DOCTYPE html><html><head><title> Paris
 today </title><script>evil()</script><style>p {{}}</style></head><body>
<nav><a href="/">Home</a> <a href="/about">About us</a></nav>
<main><h1>Paris</h1><p>{PARAGRAPH}</p></main><footer>Cookie policy</footer></body></html>"""


def browser(**options) -> PageBrowser:
    return PageBrowser(allowed_networks=HERE, **{"fetch_seconds": 30, "read_seconds": 30, **options})


async def read(*answers, **options) -> ToolResult:
    async with serving(*answers) as server:
        return await browser(**options).run(server.url)


def children() -> set[int]:
    tasks = Path("/proc/self/task").iterdir()
    return {int(pid) for task in tasks for pid in (task / "children").read_text().split()}


def body_of(result: ToolResult) -> str:
    return result.text.split("\n\n", 1)[1]


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


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda data: zlib.compress(data)[2:-4]),
        ("GZIP", gzip.compress),
        ("identity", bytes),
    ],
)
async def test_compressed_pages_are_unpacked(encoding, pack: Callable[[bytes], bytes]):
    text = "<p>" + " ".join(map(str, range(30_000))) + "</p>"
    result = await read(page(pack(text.encode()), Content_Encoding=encoding), max_chars=200_000)
    assert body_of(result).endswith("29998 29999")


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip"])
async def test_a_compression_that_was_not_asked_for_is_not_undone(encoding):
    assert (await read(page(b"x", Content_Encoding=encoding))).status is ToolStatus.MODEL_ERROR


@pytest.mark.parametrize("data", [b"no gzip at all", gzip.compress(b"<p>x</p>" * 9)[:20], b""])
async def test_broken_compression_is_an_answer(data):
    result = await read(page(data, Content_Encoding="gzip"))
    assert result.status in (ToolStatus.MODEL_ERROR, ToolStatus.EMPTY, ToolStatus.OK)


def memory_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


async def test_a_bomb_of_400_megabytes_takes_neither_time_nor_memory():
    step = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(step.compress(b"<p>boom</p>\n" * 100_000) for _ in range(330)) + step.flush()
    assert len(bomb) < 2 << 20
    before, start = memory_mb(), time.monotonic()
    result = await read(page(bomb, Content_Encoding="gzip"))
    assert result.status is ToolStatus.OK
    assert memory_mb() - before < 100
    assert time.monotonic() - start < 25


async def test_a_page_longer_than_the_limit_is_read_to_the_limit():
    result = await read(page("<p>" + "word " * 1_000_000), max_html_bytes=1000, max_chars=10_000)
    assert 900 < len(body_of(result)) <= 1000


async def test_what_the_model_sees_is_cut_and_the_cut_is_marked():
    result = await read(page("<p>" + "word " * 1000), max_chars=50)
    assert body_of(result) == ("word " * 10) + "\n...(page cut)"


async def test_an_endless_body_ends_at_the_limit():
    async def flood(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/html"})
        await response.prepare(request)
        while True:
            await response.write(b"<p>more</p>" * 1000)

    result = await read(flood, max_html_bytes=100_000)
    assert result.status is ToolStatus.OK


async def test_a_slow_loris_ends_in_a_time_out():
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for letter in b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nX: " + b"x" * 100_000:
                writer.write(bytes([letter]))
                await writer.drain()
                await asyncio.sleep(0.05)
        except OSError:
            pass

    start = time.monotonic()
    async with speaking(drip) as url:
        result = await browser(fetch_seconds=0.5).run(url)
    assert result.status is ToolStatus.TIMEOUT
    assert time.monotonic() - start < 5


async def test_a_body_that_drips_ends_in_a_time_out():
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/html"})
        await response.prepare(request)
        while True:
            await response.write(b"x")
            await asyncio.sleep(0.05)

    assert (await read(drip, fetch_seconds=0.5)).status is ToolStatus.TIMEOUT


async def test_a_server_that_says_nothing_ends_in_a_time_out():
    assert (await read(never, fetch_seconds=0.5)).status is ToolStatus.TIMEOUT


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 429, 500, 503])
async def test_an_error_page_is_the_models_error_with_its_number(status):
    result = await read(answer("<p>gone</p>", status))
    assert result == ToolResult(f"Error: the page's server answered HTTP {status}", ToolStatus.MODEL_ERROR)


@pytest.mark.parametrize(
    "noise", [b"", b"SSH-2.0\r\n", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 abc\r\n\r\n", b"\xff" * 9999]
)
async def test_a_server_that_is_no_web_server_is_the_models_error(noise):
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(noise)
        writer.close()

    async with speaking(talk) as url:
        assert (await browser().run(url)).status is ToolStatus.MODEL_ERROR


async def test_a_huge_header_is_the_models_error():
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000_000)
        writer.close()

    async with speaking(talk) as url:
        assert (await browser().run(url)).status is ToolStatus.MODEL_ERROR


@pytest.mark.parametrize(
    "text", ["", " ", "what is this", "http://", "http:///x", "https://[", "http://a b", "x" * 100_000]
)
async def test_what_is_no_address_is_the_models_error(text):
    assert (await browser().run(text)).status is ToolStatus.MODEL_ERROR


@pytest.mark.parametrize(
    "text", ["http://\0/", "http://\ud800/", "http://x\r\nHost: y/", "http://a..b/", "http://" + "a" * 300]
)
async def test_hostile_addresses_are_the_models_error(text):
    assert (await browser(fetch_seconds=5).run(text)).status in (
        ToolStatus.MODEL_ERROR,
        ToolStatus.INFRASTRUCTURE_ERROR,
    )


def pdf(*pages: str) -> bytes:
    """A PDF by hand: one line of text a page, with a right table of objects."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"", b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for text in pages:
        stream = f"BT /F1 24 Tf 72 700 Td ({text}) Tj ET".encode()
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
        resources = b"<< /Font << /F1 3 0 R >> >>"
        kids.append(b"%d 0 R" % (len(objects) + 1))
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R /Resources %s >>"
            % (len(objects), resources)
        )
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(kids), len(kids))
    data, offsets = b"%PDF-1.4\n", []
    for number, text in enumerate(objects, start=1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, text)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    trailer = b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, len(data))
    return data + b"xref\n0 %d\n0000000000 65535 f \n%s" % (len(objects) + 1, table) + trailer


@pytest.mark.parametrize("content_type", ["application/pdf", "application/octet-stream", ""])
async def test_a_pdf_is_the_text_of_its_pages(content_type):
    result = await read(page(pdf("first page", "second page"), content_type))
    assert result.text.split("\n\n")[-2:] == ["first page", "second page"]


@pytest.mark.parametrize(
    "data",
    [
        b"%PDF-1.7",
        b"%PDF-1.7\n" + os.urandom(50_000),
        pdf("x")[:200],
        b"%PDF-" + b"<<" * 100_000,
        b"%PDF-" + b"\0" * 9999,
    ],
    ids=["bare", "noise", "cut", "nested", "nul"],
)
async def test_a_broken_pdf_is_an_error_and_the_next_page_is_read(data):
    async with serving(page(data, "application/pdf"), page("<p>next</p>")) as server:
        tool = browser()
        assert (await tool.run(server.url)).status in (ToolStatus.MODEL_ERROR, ToolStatus.LIMIT, ToolStatus.EMPTY)
        assert (await tool.run(server.url)).text.endswith("next")


async def test_a_pdf_without_text_is_empty():
    assert (await read(page(pdf(""), "application/pdf"))).status is ToolStatus.EMPTY


async def test_a_pdf_larger_than_the_limit_is_a_limit():
    result = await read(page(b"%PDF-1.7\n" + bytes(2 << 20), "application/pdf"), max_pdf_bytes=1 << 20)
    assert result.status is ToolStatus.LIMIT


@pytest.mark.parametrize(
    "text",
    [
        "<p>" + "x" * 1_500_000,
        "<a href='x'>l</a>" * 50_000,
        "<table>" * 5_000 + "deep",
        "<" * 100_000,
        "&" * 100_000,
        "<!--" * 50_000,
        "<p " + "a=b " * 100_000 + ">x",
        "\0" * 10_000,
        "<p>\ud800</p>".encode("utf-8", "surrogatepass").decode("utf-8", "replace"),
        "&#xd800;&#0;&#x110000;",
    ],
    ids=lambda text: repr(text[:12]),
)
async def test_hostile_pages_are_answered(text):
    result = await read(page(text), read_seconds=5)
    assert result.status in (ToolStatus.OK, ToolStatus.EMPTY, ToolStatus.LIMIT)
    result.text.encode()


@pytest.mark.slow
async def test_20_000_nested_elements_are_read_in_bounded_time():
    start = time.monotonic()
    result = await read(page("<div>" * 20_000 + "deep" + "</div>" * 20_000), read_seconds=2)
    assert result.status in (ToolStatus.OK, ToolStatus.LIMIT)
    assert time.monotonic() - start < 20


async def test_a_reader_that_hangs_is_killed_and_the_loop_goes_on(monkeypatch):
    before = children()
    tool = browser(read_seconds=0.3)
    async with serving(page("<div>" * 20_000 + "deep")) as server:
        lag, call = 0.0, asyncio.create_task(tool.run(server.url))
        while not call.done():
            start = time.monotonic()
            await asyncio.sleep(0.01)
            lag = max(lag, time.monotonic() - start)
        await call
    assert lag < 0.5
    assert len(children() - before) <= 1


async def test_many_pages_at_once_share_the_workers_and_get_their_own_text():
    async def numbered(request: web.Request) -> web.StreamResponse:
        return web.Response(text=f"<p>page {request.path[1:]}</p>", content_type="text/html")

    before = children()
    tool = browser(workers=2)
    async with serving(numbered) as server:
        results = await asyncio.gather(*(tool.run(f"{server.url}/{number}") for number in range(40)))
    assert [body_of(result) for result in results] == [f"page {number}" for number in range(40)]
    assert len(children() - before) == 2


async def test_a_cancelled_call_leaves_no_half_read_answer_for_the_next():
    tool = browser(workers=1)
    async with serving(page("<p>" + "first " * 100_000), page("<p>second</p>")) as server:
        call = asyncio.create_task(tool.run(server.url))
        while not server.requests:
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await tool.run(server.url)).text.endswith("\nsecond")


def test_workers_and_files_are_gone_when_the_loop_is(caplog):
    async def once() -> ToolResult:
        return await read(page(ARTICLE))

    asyncio.run(once())
    processes, files = children(), len(os.listdir("/proc/self/fd"))
    assert asyncio.run(once()).status is ToolStatus.OK
    assert children() == processes
    assert len(os.listdir("/proc/self/fd")) == files


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


async def test_the_worker_has_no_secret_of_ours(monkeypatch):
    monkeypatch.setenv("ARPO_TEST_SECRET", "sesame")
    before = children()
    tool = browser()
    async with serving(page(ARTICLE)) as server:
        await tool.run(server.url)
    [worker] = children() - before
    assert Path(f"/proc/{worker}/environ").read_bytes() == b""


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
