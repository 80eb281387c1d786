"""Calls of the tools of a real MCP server, by its pipes and over HTTP: good ones, and all that goes wrong."""

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from mcp_processes import COMMAND, http_server

from arpo_tools import ToolStatus
from arpo_tools.mcp_tools import Address, Limits, McpServer, ServerError
from arpo_tools.mcp_tools import server as server_module

LIMITS = Limits(call_seconds=2.0, start_seconds=20.0, max_result_bytes=1_000_000)


@pytest.fixture(scope="module")
def shared_http() -> Iterator[dict]:
    with http_server() as (address, _):
        yield address


@pytest.fixture(scope="module", params=[pytest.param("stdio", marks=pytest.mark.slow), "http"])
def server(request, shared_http) -> Iterator[McpServer]:
    """A server that outlives what the tests do to it."""
    one = McpServer(Address(**(COMMAND if request.param == "stdio" else shared_http)), LIMITS)
    yield one
    one.close()


@contextlib.contextmanager
def own(limits: Limits = LIMITS, **address) -> Iterator[McpServer]:
    one = McpServer(Address(**(address or COMMAND)), limits)
    try:
        yield one
    finally:
        one.close()


def test_the_tools_are_listed_with_their_schemas(server):
    there = {tool.name: tool for tool in server.list_tools()}
    assert set(there) == {"add", "put", "show", "roll", "find", "fail", "block"}
    assert there["add"].description == "Add two numbers."
    assert there["add"].input_schema["required"] == ["a"]


@pytest.mark.parametrize(
    ("name", "arguments", "status", "text"),
    [
        ("add", {"a": 1, "b": 2}, "ok", "3"),
        ("add", {"a": 1}, "ok", "2"),
        ("find", {"place": {"city": "Rome"}, "kind": "shop", "near": ["x", "y"], "limit": 2}, "ok",
         "shop in Rome, floor 0, near x, y, 2, False"),
        ("add", {"a": "one"}, "model_error", "validation error"),
        ("add", {}, "model_error", "a\n"),
        ("nothing", {}, "model_error", "Unknown tool"),
        ("fail", {"how": "raise"}, "model_error", "Error executing tool fail"),
        ("fail", {"how": "image"}, "ok", "[image/png, which can't be shown as text]"),
        ("fail", {"how": "nothing"}, "empty", ""),
    ],
)  # fmt: skip
async def test_a_call_is_answered_or_told_what_is_wrong_with_it(server, name, arguments, status, text):
    result = await server.call(name, arguments)
    assert result.status.value == status
    assert text in result.text


async def test_many_calls_at_once_share_a_session(server):
    results = await asyncio.gather(*(server.call("add", {"a": number, "b": number}) for number in range(50)))
    assert [result.text for result in results] == [str(2 * number) for number in range(50)]
    assert len(server._sessions) == 1


async def test_a_call_that_takes_too_long_is_told_so_and_the_server_goes_on(server):
    start = time.monotonic()
    result = await server.call("fail", {"how": "hang"})
    assert (result.status, result.text) == (ToolStatus.TIMEOUT, "Error: 'fail' takes longer than 2 s.")
    assert time.monotonic() - start < 4
    assert (await server.call("add", {"a": 1})).text == "2"


def own_of(kind: str, stack: contextlib.ExitStack, limits: Limits = LIMITS) -> McpServer:
    address = COMMAND if kind == "stdio" else stack.enter_context(http_server())[0]
    return stack.enter_context(own(limits, **address))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["stdio", "http"])
async def test_a_server_that_answers_nothing_any_more_is_a_failure_of_the_infrastructure(kind):
    with contextlib.ExitStack() as stack:
        server = own_of(kind, stack)
        assert (await server.call("add", {"a": 1})).text == "2"
        start = time.monotonic()
        result = await server.call("block", {"seconds": 8})
        assert result.status is ToolStatus.INFRASTRUCTURE_ERROR
        assert "no answer in 2 s, nor to the question that followed" in result.text
        assert time.monotonic() - start < 6
        if kind == "stdio":  # the process has gone with its session, and the next call starts another
            assert (await server.call("add", {"a": 1})).text == "2"


@pytest.mark.parametrize("how", ["die", pytest.param("garbage", marks=pytest.mark.slow)])
async def test_a_process_that_dies_in_a_call_is_started_again_for_the_next_one(how):
    with own() as server:
        calls = [server.call("fail", {"how": how}), *(server.call("fail", {"how": "hang"}) for _ in range(3))]
        assert [result.status for result in await asyncio.gather(*calls)] == [ToolStatus.INFRASTRUCTURE_ERROR] * 4
        assert (await server.call("add", {"a": 1})).text == "2"


async def test_a_server_over_http_that_dies_is_told_and_back_when_it_is_back():
    with http_server() as (address, process), own(**address) as server:
        assert (await server.call("add", {"a": 1})).text == "2"
        asked = asyncio.create_task(server.call("fail", {"how": "hang"}))
        await asyncio.sleep(0.3)
        process.kill()
        start = time.monotonic()
        assert (await asked).status is ToolStatus.INFRASTRUCTURE_ERROR
        gone = await server.call("add", {"a": 1})
        assert gone.status is ToolStatus.INFRASTRUCTURE_ERROR
        assert "127.0.0.1" in gone.text
        assert time.monotonic() - start < 5


@pytest.mark.slow
async def test_a_result_that_is_too_large_ends_its_call_alone(server):
    start = time.monotonic()
    result = await server.call("fail", {"how": "huge"})
    assert result.status in (ToolStatus.TIMEOUT, ToolStatus.INFRASTRUCTURE_ERROR)
    assert len(result.text) < 1000
    assert time.monotonic() - start < 10
    assert (await server.call("add", {"a": 1})).text == "2"


@pytest.mark.slow
async def test_a_large_result_as_one_piece_of_json_is_not_read_to_its_end():
    with http_server("json") as (address, _), own(**address) as server:
        result = await server.call("fail", {"how": "huge"})
        assert result.status is ToolStatus.INFRASTRUCTURE_ERROR
        assert "larger than 1000000 bytes (max_result_bytes)" in result.text
        assert (await server.call("add", {"a": 1})).text == "2"


@pytest.mark.parametrize(
    ("mood", "status", "reason"),
    [
        ("locked", ToolStatus.REFUSED, "refuses the key: HTTP 401; see `headers`"),
        ("garbage", ToolStatus.INFRASTRUCTURE_ERROR, "Unexpected content type: text/html"),
        ("busy", ToolStatus.INFRASTRUCTURE_ERROR, "Server returned an error response"),
    ],
)
async def test_a_server_that_answers_what_is_none_is_told_at_the_start_and_in_a_call(mood, status, reason):
    with http_server(mood) as (address, _), own(**address) as server:
        with pytest.raises(ServerError, match=r"MCP server http://127\.0\.0\.1:.* ") as raised:
            server.list_tools()
        result = await server.call("add", {"a": 1})
        for told in (raised.value.status, result.status):
            assert told is status
        for told in (str(raised.value), result.text):
            assert reason in told


QUICK = ("no such program", "a program that ends at once")
STARTS = {
    "no such program": (["/no/such/program"], "No such file"),
    "a program that ends at once": ([sys.executable, "-c", "pass"], ""),
    "a program that speaks something else": ([sys.executable, "-c", "print('hello')\nimport time\ntime.sleep(60)"], ""),
    "a program that says nothing": ([sys.executable, "-c", "import time\ntime.sleep(60)"], "no handshake in 1 s"),
    "a program that floods": ([sys.executable, "-c", "while True: print('x' * 1000)"], "no handshake in 1 s"),
    "a program without end of line": ([sys.executable, "-c", "while True: print('x' * 1000, end='')"], "no handshake"),
}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in STARTS]
)
async def test_what_is_no_server_is_told_in_time_and_left_no_process(name, tmp_path):
    [command, *args], reason = STARTS[name]
    note = tmp_path / "pid"
    if args:
        args = ["-c", f"import os\nopen({str(note)!r}, 'w').write(str(os.getpid()))\n{args[1]}"]
    with own(Limits(1.0, 1.0), command=command, args=args) as server:
        start = time.monotonic()
        with pytest.raises(ServerError, match=reason):
            server.list_tools()
        first = await server.call("add", {"a": 1})
        assert first.status is ToolStatus.INFRASTRUCTURE_ERROR
        assert time.monotonic() - start < 15
        # Nobody waits for another start right away.
        begun = time.monotonic()
        results = await asyncio.gather(*(server.call("add", {"a": 1}) for _ in range(20)))
        assert {result.status for result in results} == {ToolStatus.INFRASTRUCTURE_ERROR}
        assert time.monotonic() - begun < 1
    if args:
        deadline = time.monotonic() + 10
        while (is_alive := lives(int(note.read_text()))) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        assert not is_alive


def lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
async def test_a_start_is_tried_again_after_a_pause(monkeypatch, tmp_path):
    monkeypatch.setattr(server_module, "PAUSE_SECONDS", 0.2)
    program = tmp_path / "server"
    with own(command=str(program)) as server:
        assert (await server.call("add", {"a": 1})).status is ToolStatus.INFRASTRUCTURE_ERROR
        program.write_text(f"#!/bin/sh\nexec {sys.executable} {COMMAND['args'][0]} stdio\n")
        program.chmod(0o755)
        assert (await server.call("add", {"a": 1})).status is ToolStatus.INFRASTRUCTURE_ERROR
        await asyncio.sleep(0.25)
        assert (await server.call("add", {"a": 1})).text == "2"


async def test_sessions_of_ones_own_keep_apart_what_is_put_into_them(server):
    one, two = await server.open(), await server.open()
    said = [await server.call("put", {"item": item}, session) for item, session in (("a", one), ("b", two), ("c", one))]
    assert [result.text for result in said] == ["a", "b", "a c"]
    await server.close_session(one)
    closed = await server.call("put", {"item": "d"}, one)
    assert closed.status is ToolStatus.INFRASTRUCTURE_ERROR
    assert (await server.call("show", {}, two)).text == "b"
    await server.close_session(two)


async def test_a_server_without_sessions_is_refused_where_each_leaf_needs_its_own():
    with http_server("stateless") as (address, _), own(**address) as server:
        assert (await server.call("add", {"a": 1})).text == "2"
        with pytest.raises(ServerError, match=r"gives no session .* or state stateless: true"):
            await server.open()


async def test_a_call_that_nobody_waits_for_any_more_holds_nothing_up(server):
    task = asyncio.create_task(server.call("fail", {"how": "hang"}))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await server.call("add", {"a": 1})).text == "2"


def test_calls_come_from_any_event_loop(server):
    results: list[str] = []

    def ask(number: int) -> None:
        results.append(asyncio.run(server.call("add", {"a": number})).text)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("there", "message"),
    [("None", "pip install 'arpo-verl[mcp]'"), ("types.ModuleType('mcp')", "pip install 'mcp>=2'")],
)
def test_without_the_package_or_with_an_old_one_it_says_what_to_install(there, message):
    program = f"import sys, types\nsys.modules['mcp'] = {there}\nimport arpo_tools.mcp_tools"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("address", [{}, {"command": "x", "url": "http://x"}])
def test_an_address_is_a_command_or_a_url(address):
    with pytest.raises(ValueError, match="expected one of them"):
        Address(**address)


def test_no_message_shows_a_key():
    address = Address(url="https://me:secret@host/mcp?key=secret", headers={"Authorization": "Bearer secret"})
    assert "secret" not in f"{address.label} {Address(command='x', env={'KEY': 'secret'})}"
    assert "Bearer" not in repr(address)
