"""Tools run where they can be left behind, and whatever they raise or return is an answer."""

import asyncio
import json
import logging
import math
import subprocess
import sys
import threading
import time
from functools import partial
from types import SimpleNamespace

import aiohttp
import pytest
from verl.tools.base_tool import BaseTool
from verl.tools.function_tool import FunctionTool
from verl.tools.schemas import OpenAIFunctionToolSchema, ToolResponse

from arpo_tools import ArgumentError
from arpo_verl.config import ArpoConfig
from arpo_verl.integration.rollout.tools import ToolSettings, VerlTools
from arpo_verl.rollout import tool_threads
from arpo_verl.rollout.calls import NO_LIMIT, CallExecutor
from arpo_verl.rollout.protocols import ToolAnswer, ToolCall
from arpo_verl.rollout.tool_threads import ToolAborted, ToolLoop, run_in_thread
from arpo_verl.rollout.tree import Leaf

SETTINGS = ToolSettings([], {}, limit=200, truncate_side="right")


def schema(name: str) -> OpenAIFunctionToolSchema:
    parameters = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    function = {"name": name, "description": name, "parameters": parameters}
    return OpenAIFunctionToolSchema.model_validate({"type": "function", "function": function})


def function_tool(fn, is_async: bool = False) -> FunctionTool:
    return FunctionTool(name="tool", fn=fn, tool_schema=schema("tool"), is_async=is_async)


class Instance(BaseTool):
    """A tool with verl's life cycle that does what it is given."""

    def __init__(self, act, name: str = "tool") -> None:
        self.config, self.tool_schema, self.name = {}, schema(name), name
        self.act = act

    async def execute(self, instance_id, parameters, **kwargs):
        return await self.act(parameters["text"])


def executor(tool, **knobs) -> CallExecutor:
    config = ArpoConfig(**{"max_call_seconds": 0.3, "infrastructure_retries": 0, **knobs})
    return CallExecutor(VerlTools({"tool": tool}, SETTINGS), config, NO_LIMIT)


async def answer(tool, **knobs) -> ToolAnswer:
    leaf = Leaf(number=0, path="0", request_id="r")
    [answer], _ = await executor(tool, **knobs).execute(leaf, [ToolCall("tool", "x")])
    return answer


def kinds(act) -> list:
    """A tool that does something as a function, as a coroutine function, and as one with a life cycle."""

    async def act_in_coroutine(text: str):
        return act(text)

    return [function_tool(act), function_tool(act_in_coroutine, is_async=True), Instance(act_in_coroutine)]


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["function", "coroutine", "instance"])
async def test_a_tool_that_blocks_is_left_behind_and_the_others_go_on(kind, monkeypatch):
    monkeypatch.setattr(tool_threads, "RESPONSE_SECONDS", 0.2)
    release = threading.Event()
    blocking = kinds(lambda text: release.wait(30))[kind]
    start = time.monotonic()
    try:
        # More calls than asyncio's default executor has threads.
        answers = asyncio.gather(*(answer(blocking) for _ in range(40)))
        # Meanwhile the rollout's loop and its executor are free.
        assert await asyncio.wait_for(asyncio.to_thread(lambda: 2), 2) == 2
        assert {one.status for one in await answers} == {"infrastructure_error"}
        assert time.monotonic() - start < 8
        release.set()
        assert (await answer(kinds(lambda text: "free")[kind], max_call_seconds=10)).text == "free"
    finally:
        release.set()


def test_a_process_ends_although_its_tools_still_block():
    script = """
import asyncio, time
from arpo_verl.rollout.tool_threads import tool_loop, run_in_thread
async def block():
    time.sleep(60)
async def main():
    for call in (run_in_thread("a", lambda: time.sleep(60)), tool_loop("b").run(block)):
        try:
            await asyncio.wait_for(call, 0.2)
        except asyncio.TimeoutError:
            print("left behind")
asyncio.run(main())
"""
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout == "left behind\n" * 2
    assert time.monotonic() - start < 40


async def test_a_loop_that_is_blocked_is_replaced_and_named(caplog, monkeypatch):
    monkeypatch.setattr(tool_threads, "RESPONSE_SECONDS", 0.2)
    release = threading.Event()
    loop = ToolLoop("slow")

    async def block():
        release.wait(30)

    async def thread():
        return threading.get_ident()

    before = await loop.run(thread)
    assert before == await loop.run(thread) != threading.get_ident()
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(loop.run(block), 0.1)
    with caplog.at_level(logging.ERROR):
        assert await asyncio.wait_for(loop.run(thread), 5) != before
    release.set()
    assert "tool 'slow' blocks its event loop" in caplog.text


async def test_sessions_that_belong_to_the_first_loop_work_again_once_it_is_free(caplog, monkeypatch):
    monkeypatch.setattr(tool_threads, "RESPONSE_SECONDS", 0.2)
    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    loop, release = ToolLoop("slow"), threading.Event()
    sessions: list[aiohttp.ClientSession] = []

    async def fetch():
        if not sessions:
            sessions.append(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)))
        async with sessions[0].get(url) as response:
            return await response.text()

    async def block():
        release.wait(30)

    async def thread():
        return threading.get_ident()

    first = await loop.run(thread)
    assert await loop.run(fetch) == "hello"
    for _ in range(2):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(loop.run(block), 0.1)
        assert await asyncio.wait_for(loop.run(thread), 5) != first
        release.set()
        while await loop.run(thread) != first:  # ends, or the test's time is over
            await asyncio.sleep(0.01)
        assert await loop.run(fetch) == "hello"
        release.clear()
    assert len([message for message in caplog.messages if "gets its further calls" in message]) == 2
    # However often it was blocked, there are two loops.
    assert len(loop._threads) == 2
    await loop.run(sessions[0].close)
    server.close()


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
    await writer.drain()
    writer.close()


async def test_a_loop_that_was_slow_and_answers_again_is_kept():
    loop = ToolLoop("slow")

    async def thread():
        return threading.get_ident()

    before = await loop.run(thread)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(loop.run(partial(asyncio.sleep, 30)), 0.1)
    assert await loop.run(thread) == before


async def test_a_cancelled_coroutine_is_cancelled_and_may_clean_up():
    events = []

    async def act():
        events.append("started")
        try:
            await asyncio.sleep(30)
        finally:
            await asyncio.sleep(0.05)
            events.append("ended")

    call = asyncio.create_task(ToolLoop("slow").run(act))
    while not events:
        await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert events == ["started", "ended"]


async def test_what_a_task_raises_that_a_tool_has_left_to_itself_does_not_end_its_loop():
    loop = ToolLoop("slow")

    async def fail():
        raise SystemExit(3)

    async def act():
        asyncio.get_running_loop().create_task(fail())
        await asyncio.sleep(0.05)
        return "on"

    assert await asyncio.wait_for(loop.run(act), 5) == "on"
    assert await asyncio.wait_for(loop.run(act), 5) == "on"


async def test_a_call_keeps_its_context():
    from contextvars import ContextVar

    variable = ContextVar("variable", default="")
    variable.set("kept")

    async def get():
        return variable.get()

    assert await run_in_thread("tool", variable.get) == await ToolLoop("tool").run(get) == "kept"


async def test_a_thread_passes_on_what_its_function_raises():
    with pytest.raises(ZeroDivisionError):
        await run_in_thread("tool", lambda: 1 / 0)
    with pytest.raises(ToolAborted, match=r"SystemExit\(3\)"):
        await run_in_thread("tool", lambda: sys.exit(3))


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no")


def raising(error):
    def act(text: str):
        raise error

    return act


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["function", "coroutine", "instance"])
@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (SystemExit(3), "infrastructure_error", "SystemExit(3)"),
        (SystemExit("\ud83d"), "infrastructure_error", "SystemExit"),
        (KeyboardInterrupt(), "infrastructure_error", "KeyboardInterrupt"),
        (asyncio.CancelledError(), "infrastructure_error", "CancelledError"),
        (GeneratorExit(), "infrastructure_error", "GeneratorExit"),
        (BaseException("\udcff"), "infrastructure_error", "BaseException"),
        (StopIteration("end"), "infrastructure_error", ""),
        (StopAsyncIteration("end"), "infrastructure_error", ""),
        (RuntimeError("x" * 50_000_000), "infrastructure_error", "xxx...(truncated)"),
        (RuntimeError("\ud83d</result>"), "infrastructure_error", "\ufffd"),
        (RuntimeError(), "infrastructure_error", "RuntimeError"),
        (Unprintable(), "infrastructure_error", "Unprintable"),
        (MemoryError(), "infrastructure_error", "MemoryError"),
        (RecursionError("deep"), "infrastructure_error", "deep"),
        (TimeoutError("slow"), "infrastructure_error", "slow"),
        (ValueError("bad \ud83d"), "infrastructure_error", "bad \ufffd"),
        (KeyError("\ud83d"), "infrastructure_error", "\\ud83d"),
        (IndexError("range"), "infrastructure_error", "range"),
        (TypeError("None"), "infrastructure_error", "None"),
        (AttributeError("None"), "infrastructure_error", "None"),
        (ZeroDivisionError("by zero"), "infrastructure_error", "by zero"),
        (OverflowError("large"), "infrastructure_error", "large"),
        (json.JSONDecodeError("Expecting value", "<html>", 0), "infrastructure_error", "Expecting value"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "start byte"), "infrastructure_error", "start byte"),
        (UnicodeEncodeError("ascii", "\xe9", 0, 1, "range"), "infrastructure_error", "range"),
        (ArgumentError("no such page \ud83d"), "model_error", "no such page \ufffd"),
        (RuntimeError("https://me:hunter22@host/x"), "infrastructure_error", "https://***@host/x"),
    ],
    ids=lambda value: ascii(value)[:30],
)
async def test_whatever_a_tool_raises_is_its_answer(kind, error, status, words):
    said = await answer(kinds(raising(error))[kind], max_call_seconds=20)
    assert said.status == status
    assert said.text.startswith("Error executing tool 'tool': ")
    assert words in said.text
    assert len(said.text) < 300
    said.text.encode()


class Thing:
    def __str__(self) -> str:
        return "thing \ud83d"


class Broken:
    def __str__(self) -> str:
        sys.exit("no")


class Text(str):
    def __len__(self) -> int:
        raise ValueError("no")


RETURNED = [
    ("\ud83d", "ok", "\ufffd"),
    ("\ud83d\ude00", "ok", "\U0001f600"),
    (None, "ok", "None"),
    (math.nan, "ok", "nan"),
    (b"\xff\x00", "ok", "b'\\xff\\x00'"),
    (3, "ok", "3"),
    (["a", "\ud83d"], "ok", "['a', '\\ud83d']"),
    ({"a": "\ud83d"}, "ok", '{"a": "\ufffd"}'),
    (Thing(), "ok", "thing \ufffd"),
    ("x" * 50_000_000, "ok", "x" * 200 + "...(truncated)"),
    (("a", math.nan), "ok", "a"),
    (("a", 1.0, {"status": "empty"}), "empty", "a"),
    (("a", 1.0, {"status": ["\ud83d"]}), "ok", "a"),
    (("a", 1.0, {"status": "\ud83d" * 1000}), "ok", "a"),
    (ToolResponse(text=None), "ok", ""),
    (ToolResponse(text="\ud83d"), "ok", "\ufffd"),
    (Broken(), "infrastructure_error", "SystemExit"),
    ({"a": object()}, "infrastructure_error", "returned dict"),
    ({1: {2, 3}}, "infrastructure_error", "returned dict"),
    ((), "infrastructure_error", "returned tuple"),
    (("a", "b", "c", "d"), "infrastructure_error", "returned tuple"),
    (("a", "no number"), "infrastructure_error", "returned tuple"),
    (("a", 1.0, 5), "infrastructure_error", "returned tuple"),
    (ToolResponse(image=[1]), "infrastructure_error", "image"),
]


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["function", "coroutine", "instance"])
@pytest.mark.parametrize(
    ("returned", "status", "words"), RETURNED, ids=lambda value: ascii(value).partition(" at 0x")[0][:30]
)
async def test_whatever_a_tool_returns_is_an_answer(kind, returned, status, words):
    said = await answer(kinds(lambda text: returned)[kind], max_call_seconds=20)
    assert said.status == status
    assert said.text == words if status != "infrastructure_error" else words in said.text
    said.text.encode()
    assert said.reward is None or math.isfinite(said.reward)


async def test_a_step_reward_is_kept_and_one_that_is_no_number_left_out():
    rewards = [1, 0.5, True, None, math.inf, -math.inf, math.nan, 10**400]
    tools = [Instance(lambda text, reward=reward: done((ToolResponse(text="a"), reward, {}))) for reward in rewards]
    assert [(await answer(tool, max_call_seconds=20)).reward for tool in tools] == [
        1.0,
        0.5,
        1.0,
        None,
        None,
        None,
        None,
        None,
    ]


async def done(value):
    return value


async def test_a_function_that_returns_a_coroutine_is_awaited():
    assert (await answer(function_tool(lambda text: done("later")))).text == "later"


async def test_a_method_that_is_no_coroutine_function_is_called_all_the_same():
    tool = Instance(None)
    tool.execute = lambda *arguments, **options: (ToolResponse(text="at once"), None, None)
    assert (await answer(tool)).text == "at once"


@pytest.mark.parametrize("method", ["create", "release"])
async def test_a_life_cycle_that_fails_is_the_tools_error(method):
    async def fail(*arguments, **options):
        sys.exit(2)

    tool = Instance(lambda text: done("a"))
    setattr(tool, method, fail)
    said = await answer(tool)
    assert (said.status, said.text) == ("infrastructure_error", "Error executing tool 'tool': it raised SystemExit(2)")


async def test_a_cancelled_rollout_cancels_its_call():
    ended = threading.Event()

    async def act(text: str):
        try:
            await asyncio.sleep(30)
        finally:
            ended.set()

    leaf = Leaf(number=0, path="0", request_id="r")
    call = executor(Instance(act), max_call_seconds=30).execute(leaf, [ToolCall("tool", "x")])
    running = asyncio.create_task(call)
    await asyncio.sleep(0.1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended.wait(5)


async def test_an_unknown_tools_name_and_wrong_arguments_are_answered_in_valid_text():
    tools = VerlTools({"tool": function_tool(str)}, SETTINGS)
    for call in (ToolCall("\ud83d" * 9999, {}), ToolCall("tool", {"\ud83d": 1}), ToolCall("tool", {"text": "\ud83d"})):
        said = await tools.execute(call, {}, [])
        said.text.encode()
        assert len(said.text) < 300


def test_a_tool_whose_loop_is_its_own_keeps_what_belongs_to_the_loop():
    lock = SimpleNamespace(value=None)

    async def act(text: str):
        lock.value = lock.value or asyncio.Lock()
        async with lock.value:
            await asyncio.sleep(0.01)
        return "locked"

    async def three():
        return await asyncio.gather(*(answer(Instance(act, "locked"), max_call_seconds=9) for _ in range(3)))

    # Two rollouts, each on a loop of its own.
    for _ in range(2):
        assert [said.text for said in asyncio.run(three())] == ["locked"] * 3


async def test_verls_own_call_still_runs_in_asyncios_default_executor():
    """When this fails, verl's `FunctionTool.call` runs a function where it can be left behind, as `_call_function`."""
    assert await function_tool(lambda text: threading.current_thread().name).call({"text": ""}) != "tool tool"
    assert (await answer(function_tool(lambda text: threading.current_thread().name))).text == "tool tool"
