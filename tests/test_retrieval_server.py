"""The retrieval server as its clients meet it: Search-R1's protocol, bad requests, and our own client."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from arpo_tools import ToolStatus
from arpo_tools.retrieval_server import main, make_app
from arpo_tools.search import open_search
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
