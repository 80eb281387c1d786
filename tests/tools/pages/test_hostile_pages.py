"""The page browser against hostile servers and documents: floods, bombs, drips, crashes, and what is left behind."""

import asyncio
import gzip
import os
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
from aiohttp import web
from pages import ARTICLE, body_of, browser, children, pdf, read
from tool_servers import answer, never, page, serving, speaking

from arpo_tools import ToolResult, ToolStatus

pytest.importorskip("resiliparse", reason="the extra `web` is not installed")
pytest.importorskip("pypdfium2", reason="the extra `web` is not installed")


@pytest.mark.parametrize("status", [200, 201, 202, 203, 206, 226, 299])
async def test_every_successful_status_is_a_page(status):
    assert body_of(await read(answer("plain words", status))) == "plain words"


@pytest.mark.parametrize("status", [204, 205])
async def test_a_status_without_content_is_empty(status):
    async def nothing(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status)

    assert (await read(nothing)).status is ToolStatus.EMPTY


@pytest.mark.parametrize(
    "more",
    [b"x" * 65536, b"\0" * 65536, gzip.compress(b"") * 3000, b"\x1f\x8b" * 30_000],
    ids=["garbage", "zeros", "empty members", "headers"],
)
async def test_endless_bytes_behind_a_compressed_body_neither_pause_the_loop_nor_are_read(more):
    async def flood(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/html", "Content-Encoding": "gzip"})
        await response.prepare(request)
        await response.write(gzip.compress(b"<p>words"))
        for _ in range(2000):
            await response.write(more)
        return response

    longest, last = 0.0, time.monotonic()
    async with serving(flood) as server:
        call = asyncio.create_task(browser().run(server.url))
        while not call.done():
            await asyncio.sleep(0)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        result = await call
    assert result.status in (ToolStatus.OK, ToolStatus.MODEL_ERROR)
    assert longest < 0.5


SLOW = "<div>" * 15_000 + "deep"


async def test_slow_documents_keep_a_good_page_waiting_for_a_short_time_only():
    async def give(request: web.Request) -> web.StreamResponse:
        return web.Response(text=SLOW if request.path == "/slow" else "<p>good", content_type="text/html")

    tool = browser(read_seconds=3)
    async with serving(give) as server:
        await tool.run(server.url)
        slow = [asyncio.create_task(tool.run(f"{server.url}/slow?{number}")) for number in range(20)]
        await asyncio.sleep(0.3)
        start = time.monotonic()
        result = await tool.run(server.url)
        seconds = time.monotonic() - start
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
    assert body_of(result) == "good"
    assert seconds < 8  # a tenth of a second of CPU time for each of 20; 30 s if they were read to their end


async def test_slow_servers_keep_a_good_page_of_the_same_host_waiting_for_a_second_only():
    async def give(request: web.Request) -> web.StreamResponse:
        if request.path == "/slow":
            await asyncio.sleep(30)
        return web.Response(text="<p>good", content_type="text/html")

    tool = browser(fetch_seconds=20)
    async with serving(give) as server:
        slow = [asyncio.create_task(tool.run(f"{server.url}/slow?{number}")) for number in range(40)]
        await asyncio.sleep(0.2)
        start = time.monotonic()
        assert body_of(await tool.run(server.url)) == "good"
        assert time.monotonic() - start < 5
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)


async def test_a_slow_document_is_still_read_with_all_its_time():
    text = "<p>" + "<i>word</i> " * 60_000
    result = await read(page(text), read_seconds=30, max_chars=200_000)
    assert body_of(result).count("word") > 20_000


def memory_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


async def test_a_bomb_of_100_megabytes_takes_neither_time_nor_memory():
    step = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(step.compress(b"<p>boom</p>\n" * 100_000) for _ in range(85)) + step.flush()
    assert len(bomb) < 1 << 20
    before, start = memory_mb(), time.monotonic()
    result = await read(page(bomb, Content_Encoding="gzip"))
    assert result.status is ToolStatus.OK
    assert memory_mb() - before < 50
    assert time.monotonic() - start < 25


async def test_a_page_longer_than_the_limit_is_read_to_the_limit():
    result = await read(page("<p>" + "word " * 1_000_000), max_html_bytes=1000, max_chars=10_000)
    assert 900 < len(body_of(result)) <= 1000


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
    "text", ["http://\0/", "http://\ud800/", "http://x\r\nHost: y/", "http://a..b/", "http://" + "a" * 300]
)
async def test_hostile_addresses_are_the_models_error(text):
    assert (await browser(fetch_seconds=5).run(text)).status in (
        ToolStatus.MODEL_ERROR,
        ToolStatus.INFRASTRUCTURE_ERROR,
    )


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
        turns, call = 0, asyncio.create_task(tool.run(server.url))
        while not call.done():
            await asyncio.sleep(0.01)
            turns += 1
        await call
    assert turns > 5  # in the 0.3 s that the reader has
    assert len(children() - before) <= 1


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


DIE = """
import asyncio, os, signal, sys
from tool_servers import page, serving
from arpo_tools.page_browser import PageBrowser
async def main():
    async with serving(page("<p>x</p>")) as server:
        await PageBrowser(allowed_networks=["127.0.0.1/32"]).run(server.url)
        print(*open(f"/proc/self/task/{os.getpid()}/children"), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


@pytest.mark.slow
def test_a_worker_ends_when_its_browser_is_killed():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    output = subprocess.run([sys.executable, "-c", DIE], env=environment, capture_output=True, text=True).stdout
    [worker] = map(int, output.split())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{worker}/cmdline").exists() and time.monotonic() < deadline:
        if not Path(f"/proc/{worker}/cmdline").read_bytes():
            break  # a zombie, whoever has inherited it
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{worker}").exists()


async def test_a_proxy_of_the_environment_is_not_asked(monkeypatch):
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    assert (await read(page("<p>direct</p>"))).text.endswith("direct")


async def test_the_worker_has_no_secret_of_ours(monkeypatch):
    monkeypatch.setenv("ARPO_TEST_SECRET", "sesame")
    before = children()
    tool = browser()
    async with serving(page(ARTICLE)) as server:
        await tool.run(server.url)
    [worker] = children() - before
    assert Path(f"/proc/{worker}/environ").read_bytes() == b""


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


async def test_a_pdf_larger_than_the_limit_is_a_limit():
    result = await read(page(b"%PDF-1.7\n" + bytes(2 << 20), "application/pdf"), max_pdf_bytes=1 << 20)
    assert result.status is ToolStatus.LIMIT
