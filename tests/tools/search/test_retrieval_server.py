"""The retrieval server as its clients meet it: Search-R1's protocol, bad requests, and our own client."""

import asyncio
import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from arpo_tools import ToolStatus
from arpo_tools.retrieval_server import main, make_app, start
from arpo_tools.retrieval_server.log_limit import LogLimit
from arpo_tools.search import open_search
from arpo_tools.search.index import Hit
from arpo_tools.search.local import LocalBackend

DOCUMENTS = [
    {"title": "France", "contents": "Paris is the capital of France", "url": "https://f.org/"},
    {"id": "d7", "contents": "Rome is the eternal city"},
    {"title": "甄嬛传", "contents": "甄嬛传是郑晓龙执导的电视剧"},
]


@pytest.fixture
def corpus(tmp_path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS))
    return path


@contextlib.asynccontextmanager
async def served(corpus: Path) -> AsyncIterator[str]:
    runner = web.AppRunner(make_app(LocalBackend(corpus)))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def post(corpus: Path, body: Any) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with (
        served(corpus) as url,
        aiohttp.ClientSession() as session,
        session.post(f"{url}/retrieve", data=data) as response,
    ):
        return response.status, await response.json()


async def test_one_list_for_each_query_with_titles_as_search_r1_writes_them(corpus):
    status, answer = await post(corpus, {"queries": ["paris", "rome"], "topk": 1, "return_scores": True})
    assert status == 200
    [[paris], [rome]] = answer["result"]
    assert paris["document"] == {
        "id": "0",
        "contents": '"France"\nParis is the capital of France',
        "url": "https://f.org/",
    }
    assert rome["document"] == {"id": "d7", "contents": "Rome is the eternal city"}
    assert paris["score"] > 0


async def test_without_scores_the_documents_themselves(corpus):
    _, answer = await post(corpus, {"queries": ["rome"]})
    assert answer == {"result": [[{"id": "d7", "contents": "Rome is the eternal city"}]]}


async def test_a_query_without_words_or_results_has_an_empty_list_and_spoils_no_other(corpus):
    _, answer = await post(corpus, {"queries": ["?!", "nowhere", "rome"], "topk": 1})
    assert [len(found) for found in answer["result"]] == [0, 0, 1]


async def test_no_query_is_no_list(corpus):
    assert await post(corpus, {"queries": []}) == (200, {"result": []})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b"null",
        [],
        {},
        {"queries": "rome"},
        {"queries": [3]},
        {"queries": ["rome"], "topk": 0},
        {"queries": ["rome"], "topk": 101},
        {"queries": ["rome"], "topk": "3"},
        {"queries": ["rome"], "topk": True},
        {"queries": ["rome"] * 1025},
    ],
    ids=lambda body: str(body)[:40],
)
async def test_a_bad_request_is_told_so(corpus, body):
    status, answer = await post(corpus, body)
    assert status == 400
    assert answer["error"]


async def test_a_body_larger_than_4_mb_is_refused_unread(corpus):
    async with (
        served(corpus) as url,
        aiohttp.ClientSession() as session,
        session.post(f"{url}/retrieve", data=b" " * (5 << 20)) as response,
    ):
        assert response.status == 413


@pytest.mark.parametrize("query", ["\ud800", "\0", "x" * 1_000_000, '" OR NEAR(', "'; DROP TABLE documents; --"])
async def test_hostile_queries_leave_the_server_alive(corpus, query):
    async with served(corpus) as url, aiohttp.ClientSession() as session:
        for asked in (query, "rome"):
            async with session.post(f"{url}/retrieve", data=json.dumps({"queries": [asked]})) as response:
                assert response.status == 200
                answer = await response.json()
    assert len(answer["result"][0]) == 1


async def test_our_client_reads_our_server(corpus):
    async with served(corpus) as url:
        tool = open_search("retrieval_server", base_url=url, cache=None, show_urls=True)
        assert (await tool.run("capital")).text == "Page 1: France (https://f.org/)\nParis is the capital of France"
        assert "郑晓龙" in (await tool.run("甄嬛传")).text
        assert (await tool.run("nowhere")).status is ToolStatus.EMPTY


def test_a_missing_corpus_is_an_error_and_a_code(tmp_path, capsys):
    assert main(["--corpus", str(tmp_path / "none.jsonl")]) == 1
    assert "is not a file" in capsys.readouterr().err


@pytest.mark.slow
async def test_the_command_serves_until_it_is_told_to_end(corpus):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "arpo_tools.retrieval_server", "--corpus", str(corpus), "--port", str(port)]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        async with aiohttp.ClientSession() as session:
            for _ in range(300):
                try:
                    async with session.get(f"http://127.0.0.1:{port}/health") as response:
                        assert await response.json() == {"status": "ok"}
                        break
                except aiohttp.ClientConnectorError:
                    await asyncio.sleep(0.1)
        tool = open_search("retrieval_server", base_url=f"http://127.0.0.1:{port}", cache=None)
        assert (await tool.run("rome")).status is ToolStatus.OK
        server.terminate()
        assert await asyncio.to_thread(server.wait, 30) == 0
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/json; charset=nonsense"},
        {"Content-Type": "application/json; charset=zip"},
        {"Content-Type": "application/json; charset=\"'"},
        {"Content-Type": "nonsense"},
        {"Content-Type": ""},
        {"Content-Type": "text/html; charset=utf-16"},
        {"Content-Encoding": "utf-8"},
        {"Accept": "\xff"},
    ],
    ids=str,
)
async def test_no_header_of_a_request_is_looked_up(corpus, headers):
    async with (
        served(corpus) as url,
        aiohttp.ClientSession() as session,
        session.post(f"{url}/retrieve", data=b'{"queries": ["rome"]}', headers=headers) as response,
    ):
        assert response.status == 200
        assert len((await response.json())["result"][0]) == 1


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_body_that_is_not_compressed_as_it_says_is_a_bad_request(corpus, encoding, caplog):
    async with served(corpus) as url, aiohttp.ClientSession() as session:
        headers = {"Content-Encoding": encoding}
        async with session.post(f"{url}/retrieve", data=b'{"queries": ["rome"]}', headers=headers) as response:
            assert response.status == 400


class SlowBackend(LocalBackend):
    """A corpus whose searches take a while."""

    async def hits(self, query: str, top_k: int) -> list[Hit]:
        await asyncio.sleep(0.001)
        return await super().hits(query, top_k)


async def test_large_batches_keep_a_single_query_waiting_for_its_turn_only(corpus):
    runner = await start(make_app(SlowBackend(corpus)), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/retrieve"

    async def ask(session: aiohttp.ClientSession, number: int) -> int:
        async with session.post(url, json={"queries": ["rome"] * number}) as response:
            return len((await response.json())["result"])

    async with aiohttp.ClientSession() as session:
        batches = [asyncio.create_task(ask(session, 1024)) for _ in range(4)]
        await asyncio.sleep(0.2)
        began = time.monotonic()
        assert await ask(session, 1) == 1
        assert time.monotonic() - began < 1.0
        assert not any(batch.done() for batch in batches)
        assert await asyncio.gather(*batches) == [1024] * 4
    await runner.cleanup()


async def idle_connections(port: int, number: int) -> list[asyncio.StreamWriter]:
    pairs = [await asyncio.open_connection("127.0.0.1", port) for _ in range(number)]
    return [writer for _, writer in pairs]


async def test_idle_connections_make_room_for_those_that_ask(corpus):
    app = make_app(LocalBackend(corpus), connections=20)
    runner = await start(app, "127.0.0.1", 0)
    port = runner.addresses[0][1]
    async with aiohttp.ClientSession() as session:
        writers = await idle_connections(port, 60)
        async with session.post(f"http://127.0.0.1:{port}/retrieve", json={"queries": ["rome"]}) as response:
            assert response.status == 200
        assert len(runner.server.connections) <= 20
        for writer in writers:
            writer.close()
    await runner.cleanup()


async def test_an_idle_connection_and_one_that_drips_its_head_are_closed_in_time(corpus):
    runner = await start(make_app(LocalBackend(corpus), idle_seconds=0.3), "127.0.0.1", 0)
    port = runner.addresses[0][1]
    [silent] = await idle_connections(port, 1)
    reader, dripping = await asyncio.open_connection("127.0.0.1", port)

    async def drip() -> None:
        with contextlib.suppress(OSError):
            for letter in b"POST /retrieve HTTP/1.1\r\n" + b"X: y\r\n" * 1000:
                dripping.write(bytes([letter]))
                await dripping.drain()
                await asyncio.sleep(0.02)

    task = asyncio.create_task(drip())
    with contextlib.suppress(OSError):
        assert await asyncio.wait_for(reader.read(), 10) == b""
    for _ in range(100):
        if not runner.server.connections:
            break
        await asyncio.sleep(0.1)
    assert runner.server.connections == []
    task.cancel()
    silent.close()
    dripping.close()
    await runner.cleanup()


@pytest.mark.slow
async def test_more_idle_connections_than_there_are_files_leave_the_server_up_and_its_log_short(corpus, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = f"ulimit -n 256; exec {sys.executable} -m arpo_tools.retrieval_server --corpus {corpus} --port {port}"
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(["bash", "-c", command], env=environment, stdout=log, stderr=log)
    writers: list[asyncio.StreamWriter] = []
    try:
        async with aiohttp.ClientSession() as session:
            for _ in range(300):
                try:
                    async with session.get(f"http://127.0.0.1:{port}/health"):
                        break
                except aiohttp.ClientConnectorError:
                    await asyncio.sleep(0.1)
            for _ in range(8):
                writers += await idle_connections(port, 100)
                tool = open_search("retrieval_server", base_url=f"http://127.0.0.1:{port}", cache=None)
                assert (await tool.run("rome")).status is ToolStatus.OK
        await asyncio.sleep(1)
        assert (tmp_path / "log").stat().st_size < 20_000
    finally:
        for writer in writers:
            writer.transport.abort()
        server.terminate()
        assert await asyncio.to_thread(server.wait, 30) == 0


def test_an_address_in_use_is_an_error_and_a_code(corpus, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["--corpus", str(corpus), "--port", str(taken.getsockname()[1])]) == 1
    assert "give another --port" in capsys.readouterr().err


def record(message: str, *arguments: object, name: str = "asyncio") -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, "x.py", 1, message, arguments, None)


def test_log_lines_of_one_kind_are_limited_and_counted(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    limit = LogLimit(most=3, seconds=60)
    lines = [f"socket.accept() out of system resource {number}\nsocket: <{number}>" for number in range(100)]
    assert [limit.filter(record(line)) for line in lines] == [True] * 3 + [False] * 97
    assert [limit.filter(record("from %s", number)) for number in range(5)] == [True] * 3 + [False] * 2
    assert limit.filter(record("another kind"))
    assert limit.filter(record(lines[0], name="aiohttp.server"))
    now[0] += 61
    first = record("from %s", 7)
    assert limit.filter(first)
    assert first.getMessage() == "from 7 (2 lines like this one were left out)"
    assert limit.filter(record("from %s", 8))
