"""The remote Python tool against a small server that speaks SandboxFusion's API, in health and in sickness."""

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from arpo_tools import ToolResult, ToolStatus

aiohttp = pytest.importorskip("aiohttp")
stamina = pytest.importorskip("stamina")

from aiohttp import web  # noqa: E402 - only where aiohttp is installed

from arpo_tools.remote_python import RemotePython  # noqa: E402

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture(autouse=True)
def retries_without_waits():
    stamina.set_testing(True, attempts=3, cap=True)
    yield
    stamina.set_testing(False)


@asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[str]:
    """Serve `/run_code`; yield the base URL."""
    application = web.Application(client_max_size=8 << 20)
    application.router.add_post("/run_code", handler)
    runner = web.AppRunner(application, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def sandbox(request: web.Request) -> web.Response:
    """What SandboxFusion does, in a process without walls: for programs of these tests only."""
    asked = await request.json()
    assert asked["language"] == "python"
    try:
        done = await asyncio.to_thread(_run, asked["code"], asked["run_timeout"])
    except subprocess.TimeoutExpired as error:
        program = {"status": "TimeLimitExceeded", "execution_time": None, "return_code": None, "stderr": ""}
        program["stdout"] = (error.stdout or b"").decode()
        return web.json_response({"status": "Failed", "message": "", "run_result": program, "files": {}})
    program = {"status": "Finished", "execution_time": 0.1, "return_code": done.returncode}
    program |= {"stdout": done.stdout, "stderr": done.stderr}
    status = "Success" if done.returncode == 0 else "Failed"
    return web.json_response({"status": status, "message": "", "compile_result": None, "run_result": program})


def _run(code: str, timeout: float) -> subprocess.CompletedProcess[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".py", encoding="utf-8") as file:
        file.write(code)
        file.flush()
        command = [sys.executable, "-I", file.name]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


async def run(handler: Handler, code: str = "1", **options) -> ToolResult:
    async with server(handler) as url:
        return await RemotePython(url, **{"timeout_seconds": 30, **options}).run(code)


@pytest.mark.parametrize(
    ("code", "text", "status"),
    [
        ("print('a')\n6 * 7", "a\n42", ToolStatus.OK),
        ("x = 1", "(no output)", ToolStatus.EMPTY),
        ("Run this:\n```python\n6 * 7\n```", "42", ToolStatus.OK),
        ("    x = 6\n    x * 7", "42", ToolStatus.OK),
        ("```\nx = (\n```", "SyntaxError: '(' was never closed", ToolStatus.MODEL_ERROR),
        ("print('é', '\\\\', \"'\")", "é \\ '", ToolStatus.OK),
        (f"len('{'a' * 200_000}')", "200000", ToolStatus.OK),
        ("import sys\nsys.exit(3)", "Error: the process ended with code 3", ToolStatus.MODEL_ERROR),
        ("1\0", "source code string cannot contain null bytes", ToolStatus.MODEL_ERROR),
    ],
)
async def test_programs_give_what_the_local_tool_gives(code, text, status):
    result = await run(sandbox, code)
    assert result.status is status
    assert result.text == text or (status is ToolStatus.MODEL_ERROR and text in result.text)


async def test_an_exception_shows_the_models_frames_only_and_keeps_earlier_prints():
    result = await run(sandbox, "print('before')\ndef f():\n    return 1 / 0\nf()")
    assert result == ToolResult(
        "before\n"
        "Traceback (most recent call last):\n"
        '  File "<python>", line 4, in <module>\n'
        '  File "<python>", line 3, in f\n'
        "ZeroDivisionError: division by zero",
        ToolStatus.MODEL_ERROR,
    )


async def test_a_time_out_keeps_earlier_prints():
    result = await run(sandbox, "print('before', flush=True)\nwhile True: pass", timeout_seconds=1)
    assert result == ToolResult("before\nTimeoutError: the call took longer than 1 s", ToolStatus.TIMEOUT)


async def test_no_memory_is_a_limit():
    result = await run(sandbox, "raise MemoryError")
    assert result.status is ToolStatus.LIMIT


async def test_output_up_to_the_limit_is_whole_and_one_character_more_is_cut():
    assert await run(sandbox, "print('x' * 10)", max_output_chars=10) == ToolResult("x" * 10, ToolStatus.OK)
    cut = await run(sandbox, "print('x' * 11)", max_output_chars=10)
    assert cut == ToolResult("x" * 10 + "\n...(output cut)", ToolStatus.LIMIT)


async def test_empty_code_is_not_sent():
    async def never(request: web.Request) -> web.Response:
        raise AssertionError("nothing was to be sent")

    assert await run(never, " \n") == ToolResult("Error: no code was given.", ToolStatus.MODEL_ERROR)


def answers(*statuses: int) -> tuple[Handler, list[int]]:
    """Return a handler that answers each status in turn, 200 with the program's result, and what it has answered."""
    given: list[int] = []

    async def handler(request: web.Request) -> web.Response:
        given.append(statuses[min(len(given), len(statuses) - 1)])
        return await sandbox(request) if given[-1] == 200 else web.Response(status=given[-1], text="gateway")

    return handler, given


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_a_busy_server_is_asked_again(status):
    handler, given = answers(status, status, 200)
    assert await run(handler, "6 * 7") == ToolResult("42", ToolStatus.OK)
    assert given == [status, status, 200]


async def test_a_server_that_stays_busy_is_an_infrastructure_error_after_three_attempts():
    handler, given = answers(504)
    result = await run(handler)
    assert result.status is ToolStatus.INFRASTRUCTURE_ERROR
    assert given == [504] * 3


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 422, 500])
async def test_any_other_status_is_an_infrastructure_error_at_once(status):
    handler, given = answers(status)
    result = await run(handler)
    assert result.status is ToolStatus.INFRASTRUCTURE_ERROR
    assert str(status) in result.text
    assert given == [status]


FINISHED = '{"status": "Finished", "return_code": 0, "stdout": "x"}'


@pytest.mark.parametrize(
    "body",
    [
        "",
        "<html>Welcome to nginx!</html>",
        '{"status": "Success", "run_result": ',
        "[1, 2]",
        "null",
        "{}",
        "[" * 100_000,
        '{"status": "Success", "run_result": null}',
        '{"status": "Success", "run_result": "x"}',
        '{"status": "SandboxError", "message": "no pod", "run_result": ' + FINISHED + "}",
        '{"status": "Failed", "message": "m", "run_result": {"status": "Error", "return_code": 0}}',
        "x" * (17 << 20),
    ],
)
async def test_an_answer_that_is_none_is_an_infrastructure_error(body):
    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=body)

    assert (await run(handler)).status is ToolStatus.INFRASTRUCTURE_ERROR


async def test_fields_that_are_missing_or_null_are_no_output():
    async def handler(request: web.Request) -> web.Response:
        return web.json_response({"status": "Success", "run_result": {"status": "Finished", "return_code": 0}})

    assert await run(handler) == ToolResult("(no output)", ToolStatus.EMPTY)


async def test_a_server_that_hangs_is_an_infrastructure_error_within_its_time():
    async def handler(request: web.Request) -> web.Response:
        await asyncio.sleep(600)
        return web.Response()

    result = await run(handler, timeout_seconds=0.1, answer_seconds=0.2)
    assert result.status is ToolStatus.INFRASTRUCTURE_ERROR


async def test_a_connection_that_breaks_is_tried_again():
    calls = []

    async def handler(request: web.Request) -> web.Response:
        calls.append(1)
        if len(calls) == 1:
            request.transport.abort()
        return await sandbox(request)

    assert await run(handler, "6 * 7") == ToolResult("42", ToolStatus.OK)
    assert len(calls) == 2


async def test_a_refused_connection_is_an_infrastructure_error_that_names_the_address():
    async with server(sandbox) as url:
        pass
    result = await RemotePython(url).run("1")
    assert result.status is ToolStatus.INFRASTRUCTURE_ERROR
    assert url in result.text


async def test_cancellation_ends_the_request():
    started, ended = asyncio.Event(), asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        started.set()
        try:
            await asyncio.sleep(600)
        finally:
            ended.set()
        return web.Response()

    async with server(handler) as url:
        call = asyncio.create_task(RemotePython(url).run("1"))
        await started.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(ended.wait(), 10)


async def test_16_concurrent_calls_get_their_own_answers():
    async with server(sandbox) as url:
        python = RemotePython(url, timeout_seconds=30)
        results = await asyncio.gather(*(python.run(f"{i} * {i}") for i in range(16)))
    assert [result.text for result in results] == [str(i * i) for i in range(16)]


@pytest.mark.parametrize(
    "options", [{"base_url": "sandbox:8080"}, {"timeout_seconds": 0}, {"memory_mb": -1}, {"attempts": 0}]
)
def test_options_that_no_call_could_work_with_are_refused_by_name(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        RemotePython(**{"base_url": "http://sandbox", **options})


async def test_libraries_that_are_listed_are_named_to_the_model_and_by_a_failing_import():
    python = RemotePython("http://sandbox", libraries=("numpy", "scipy"))
    assert python.description.endswith("Beside the standard library it can import: numpy, scipy.")
    assert "import" not in RemotePython("http://sandbox").description
    told = await run(sandbox, "import absent", libraries=("numpy", "scipy"))
    assert told.text.endswith("'absent'\nBeside the standard library it can import: numpy, scipy.")
    assert told.status is ToolStatus.MODEL_ERROR
    assert (await run(sandbox, "import absent")).text.endswith("No module named 'absent'")
