"""The Python tool on real processes: what the model reads, each limit, and that nothing is left behind."""

import asyncio
import os
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arpo_tools import PythonInterpreter, ToolResult, ToolStatus

# Generous, because the machine may be busy; tests of the wall-clock limit give their own.
PATIENCE = 60.0


def run(code: str, **limits) -> ToolResult:
    return asyncio.run(PythonInterpreter(**{"timeout_seconds": PATIENCE, **limits}).run(code))


def is_gone(pid: int) -> bool:
    """A zombie counts: it runs nothing, and who reaps an orphan is not the tool's business."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def assert_gone(*pids: int) -> None:
    deadline = time.monotonic() + 5
    while not all(map(is_gone, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)  # the kernel delivers a signal to an orphan in its own time
    assert [pid for pid in pids if not is_gone(pid)] == []


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("1 + 1", "2"),
        ("x = 3; x", "3"),
        ("1\n2\n3", "3"),
        ("print(1)\n2", "1\n2"),
        ("print('a', end='')\n5", "a5"),
        ("'a\\nb'", "'a\\nb'"),
        ("def f(x):\n    return g(x)\ndef g(x):\n    return x * x\nf(7)", "49"),
        ("[x * y for x in range(3) for y in [2]]", "[0, 2, 4]"),
        ("from __future__ import annotations\n6 * 7", "42"),
        ("from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\nA(1)", "A(x=1)"),
        ("__name__", "'__main__'"),
        ("import sys; sys.argv", "['']"),
        ("\r\n1\r\n2\r\n", "2"),
        ("print('é')\n'中'", "é\n'中'"),
    ],
)
def test_prints_come_first_and_the_value_of_the_last_expression_last(code, text):
    assert run(code) == ToolResult(text, ToolStatus.OK)


@pytest.mark.parametrize("code", ["x = 1", "None", "x = 1\nx\nx = 2", "# a comment", "if 1:\n    5", "print()", "pass"])
def test_code_without_output_is_empty(code):
    assert run(code) == ToolResult("(no output)", ToolStatus.EMPTY)


@given(st.integers() | st.floats() | st.text() | st.binary() | st.lists(st.text(max_size=5) | st.booleans()))
@settings(max_examples=25, deadline=None)
def test_any_literal_comes_back_as_its_repr(value):
    names = "inf, nan = float('inf'), float('nan')\n"
    assert run(names + repr(value)) == ToolResult(repr(value), ToolStatus.OK)


@given(st.text(st.characters()))
@settings(max_examples=40, deadline=None)
def test_any_text_gives_a_result_with_text(code):
    result = run(code)
    assert result.status in (ToolStatus.OK, ToolStatus.EMPTY, ToolStatus.MODEL_ERROR)
    assert result.text


@pytest.mark.parametrize("code", ["", " ", "\n\t \n"])
def test_empty_code_is_a_model_error(code):
    assert run(code) == ToolResult("Error: no code was given.", ToolStatus.MODEL_ERROR)


def test_syntax_error_names_the_line():
    result = run("x = 1\ny = (")
    assert result.status is ToolStatus.MODEL_ERROR
    assert 'File "<python>", line 2' in result.text
    assert "SyntaxError: '(' was never closed" in result.text


def test_exception_shows_the_models_frames_only_and_keeps_earlier_prints():
    result = run("print('before')\ndef f():\n    return 1 / 0\nf()")
    assert result.status is ToolStatus.MODEL_ERROR
    assert result.text == (
        "before\n"
        "Traceback (most recent call last):\n"
        '  File "<python>", line 4, in <module>\n'
        '  File "<python>", line 3, in f\n'
        "ZeroDivisionError: division by zero"
    )


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("def f():\n    f()\nf()", "RecursionError: maximum recursion depth exceeded"),
        ("input()", "EOFError: EOF when reading a line"),
        ("print('\\ud800')", "UnicodeEncodeError"),
        ("class A:\n    def __repr__(self):\n        raise ValueError('r')\nA()", "ValueError: r"),
        ("import sys; sys.exit('why')", "why"),
        ("import sys; sys.exit(1)", "Error: the process ended with code 1"),
        ("import os; os.kill(os.getpid(), 9)", "Error: the process ended with code -9"),
        ("import ctypes; ctypes.string_at(0)", "Error: the process ended with code -11"),
    ],
)
def test_every_other_way_to_fail_is_a_model_error_with_its_message(code, message):
    result = run(code)
    assert result.status is ToolStatus.MODEL_ERROR
    assert message in result.text


@pytest.mark.parametrize("code", ["print('bye')\nraise SystemExit", "import sys\nprint('bye')\nsys.exit(0)"])
def test_leaving_with_code_0_is_no_error(code):
    assert run(code) == ToolResult("bye", ToolStatus.OK)


@pytest.mark.parametrize("leave", ["sys.exit(3)", "os._exit(3)"])
def test_leaving_with_any_other_code_is_a_model_error_with_a_text(leave):
    result = run(f"import os, sys\n{leave}")
    assert result.status is ToolStatus.MODEL_ERROR
    assert result.text


def test_no_secret_of_the_parent_is_in_the_environment(monkeypatch):
    monkeypatch.setenv("ARPO_TEST_SECRET", "sesame")
    result = run("import os\nfor name in sorted(os.environ): print(name, os.environ[name])")
    assert "sesame" not in result.text
    # LC_CTYPE is Python's own, PEP 538.
    assert {line.split()[0] for line in result.text.splitlines()} <= {"LC_CTYPE", "OPENBLAS_NUM_THREADS"}


def test_every_call_starts_afresh():
    async def two_calls() -> list[ToolResult]:
        python = PythonInterpreter(timeout_seconds=PATIENCE)
        return [
            await python.run("x = 1\nopen('f', 'w').write('1')"),
            await python.run("import os\n'x' in dir(), os.listdir()"),
        ]

    first, second = asyncio.run(two_calls())
    assert first.text == "1"
    assert second.text == "(False, [])"


def test_working_directory_is_empty_and_deleted_afterwards():
    result = run(
        "import os\nprint(os.getcwd())\nprint(os.listdir())\nos.makedirs('a/b')\n_ = open('a/f', 'w').write('x')"
    )
    folder, contents = result.text.splitlines()
    assert contents == "[]"
    assert Path(folder) != Path.cwd()
    assert not Path(folder).exists()


@pytest.mark.parametrize("prank", ["os.rmdir(folder)", "os.chmod(folder, 0)", "os.mkdir('a'); os.chmod('a', 0)"])
def test_pranks_with_the_working_directory_change_nothing(prank):
    result = run(f"import os\nfolder = os.getcwd()\n{prank}\nprint(folder)")
    assert result.status is ToolStatus.OK
    assert not Path(result.text).exists()


@pytest.mark.parametrize(
    "prank",
    [
        "os.rmdir(folder); open(folder, 'w').close()",
        "os.rmdir(folder); os.symlink(os.path.dirname(folder), folder)",
        "[(os.mkdir('a'), os.chdir('a')) for _ in range(1200)]",
    ],
)
def test_a_working_directory_that_cannot_be_deleted_does_not_spoil_the_result(prank, monkeypatch):
    place = tempfile.mkdtemp()
    monkeypatch.setattr(tempfile, "tempdir", place)
    try:
        assert run(f"import os\nfolder = os.getcwd()\n{prank}\nprint('done')") == ToolResult("done", ToolStatus.OK)
    finally:
        subprocess.run(["rm", "-rf", place], check=True)  # shutil.rmtree would fail as the tool does


def test_timeout_kills_infinite_loop():
    start = time.monotonic()
    result = run("while True: pass", timeout_seconds=0.5)
    assert result == ToolResult("TimeoutError: the call took longer than 0.5 s", ToolStatus.TIMEOUT)
    assert time.monotonic() - start < 10


def test_timeout_keeps_output_that_was_flushed():
    result = run("print('before', flush=True)\nwhile True: pass", timeout_seconds=2)
    assert result == ToolResult("before\nTimeoutError: the call took longer than 2 s", ToolStatus.TIMEOUT)


@pytest.mark.parametrize("ending", ["while True: pass", "import time; time.sleep(600)"])
def test_timeout_keeps_earlier_prints(ending):
    result = run(f"print('before')\n{ending}", timeout_seconds=2)
    assert result == ToolResult("before\nTimeoutError: the call took longer than 2 s", ToolStatus.TIMEOUT)


@pytest.mark.parametrize("death", ["os._exit(1)", "os.kill(os.getpid(), 9)", "os.abort()"])
def test_sudden_death_keeps_earlier_prints(death):
    result = run(f"import os\nprint('before')\n{death}")
    assert result.status is ToolStatus.MODEL_ERROR
    assert result.text.startswith("before")


FAMILY = """
import os, time
child = os.fork()
if child:
    print(os.getpid(), child, flush=True)
time.sleep(600)
"""


def test_timeout_leaves_neither_child_nor_grandchild():
    result = run(FAMILY, timeout_seconds=2)
    assert result.status is ToolStatus.TIMEOUT
    child, grandchild = map(int, result.text.splitlines()[0].split())
    assert_gone(child, grandchild)


def test_a_grandchild_neither_keeps_the_call_open_nor_outlives_it():
    start = time.monotonic()
    result = run("import os, time\nchild = os.fork()\nif child:\n    print(child)\nelse:\n    time.sleep(600)")
    assert result.status is ToolStatus.OK
    assert time.monotonic() - start < 30
    assert_gone(int(result.text))


def test_a_grandchild_that_floods_the_working_directory_does_not_spoil_the_result():
    flood = "import os, time\nprint(os.getcwd(), flush=True)\nif os.fork() == 0:\n    i = 0\n    while True:\n"
    flood += "        os.mkdir(str(i)); i += 1\ntime.sleep(0.1)"
    result = run(flood)
    assert result.status is ToolStatus.OK
    assert not Path(result.text).exists()


@pytest.mark.parametrize(
    "code",
    [
        "bytearray(1 << 30)",
        "x = []\nwhile True: x.append(bytes(1000))",
        "x = None\nwhile True: x = [x]",
        "import numpy\nnumpy.ones(1 << 30)",
    ],
)
def test_memory_limit_is_a_limit_and_keeps_earlier_prints(code):
    result = run(f"print('before')\n{code}", memory_mb=512)
    assert result == ToolResult("before\nMemoryError: the memory limit is 512 MB", ToolStatus.LIMIT)


def test_cpu_limit_is_a_limit():
    result = run("while True: pass", cpu_seconds=1)
    assert result == ToolResult("Error: the CPU limit is 1 s", ToolStatus.LIMIT)


def test_cpu_limit_ends_the_call_before_the_wall_clock_limit():
    start = time.monotonic()
    assert run("while True: pass", cpu_seconds=1).status is not ToolStatus.TIMEOUT
    assert time.monotonic() - start < PATIENCE


@pytest.mark.parametrize("code", ["f.write(bytes(1 << 21))", "[f.write(bytes(1 << 20)) for _ in range(3)]"])
def test_file_size_limit_is_a_limit(code):
    result = run(f"f = open('f', 'wb', buffering=0)\n{code}\nf.write(b'more')", file_mb=1)
    assert "File too large" in result.text
    assert result.status is ToolStatus.LIMIT


def test_a_file_of_the_size_limit_may_be_written():
    result = run("open('f', 'wb').write(bytes(1 << 20))", file_mb=1)
    assert result == ToolResult("1048576", ToolStatus.OK)


def test_output_up_to_the_limit_is_whole_and_one_character_more_is_cut():
    assert run("print('x' * 10)", max_output_chars=10) == ToolResult("x" * 10, ToolStatus.OK)
    cut = ToolResult("x" * 10 + "\n...(output cut)", ToolStatus.LIMIT)
    assert run("print('x' * 11)", max_output_chars=10) == cut


def test_output_limit_counts_characters_not_bytes():
    assert run("print('😀' * 5)", max_output_chars=5) == ToolResult("😀" * 5, ToolStatus.OK)
    assert run("print('😀' * 6)", max_output_chars=5).text == "😀" * 5 + "\n...(output cut)"


def test_endless_output_ends_long_before_the_wall_clock_limit():
    start = time.monotonic()
    result = run("while True: print('x' * 999)", max_output_chars=10, file_mb=1)
    assert result == ToolResult("x" * 10 + "\n...(output cut)", ToolStatus.LIMIT)
    assert time.monotonic() - start < 30


def test_nul_bytes_are_a_model_error():
    result = run("1\0 + 1")
    assert result.status is ToolStatus.MODEL_ERROR
    assert "null bytes" in result.text


def test_lone_surrogates_in_the_code_are_replaced():
    assert run("'\udcff\ud800'") == ToolResult("'??'", ToolStatus.OK)


def test_output_that_is_not_utf_8_is_replaced():
    result = run("import sys\nsys.stdout.buffer.write(b'a\\xff\\xfeb\\n')\nNone")
    assert result == ToolResult("a\ufffd\ufffdb", ToolStatus.OK)


def test_code_of_200_kb_runs():
    assert run(f"x = '{'a' * 200_000}'\nlen(x)") == ToolResult("200000", ToolStatus.OK)


@pytest.mark.parametrize(
    ("code", "text", "status"),
    [
        ("print('a')\nsys.stdout.close()", "a", ToolStatus.OK),
        ("sys.stdout.close()", "(no output)", ToolStatus.EMPTY),
        ("sys.stdout.close()\n1", "I/O operation on closed file", ToolStatus.MODEL_ERROR),
        ("os.close(1)\nprint(1)", "Bad file descriptor", ToolStatus.MODEL_ERROR),
        ("os.close(1)\nos.close(2)\nprint(1)", "Error: the process ended with code 1", ToolStatus.MODEL_ERROR),
    ],
)
def test_closed_output_is_an_answer_too(code, text, status):
    result = run(f"import os, sys\n{code}")
    assert result.status is status
    assert text in result.text


@pytest.mark.parametrize("limit", ["timeout_seconds", "cpu_seconds", "memory_mb", "file_mb", "max_output_chars"])
@pytest.mark.parametrize("value", [0, -1])
def test_limits_that_are_not_positive_are_refused_by_name(limit, value):
    with pytest.raises(ValueError, match=f"{limit}={value}; expected a positive number"):
        PythonInterpreter(**{limit: value})


@pytest.mark.parametrize(
    ("limit", "value"),
    [("cpu_seconds", 1.5), ("memory_mb", 1.5), ("memory_mb", 1 << 50), ("timeout_seconds", float("nan"))],
)
def test_limits_that_no_call_could_run_under_are_refused_at_once(limit, value):
    with pytest.raises(ValueError, match=limit):
        PythonInterpreter(**{limit: value})


async def test_cancellation_leaves_no_process_no_directory_and_no_open_file(tmp_path):
    note = tmp_path / "note"
    code = FAMILY.replace(
        "time.sleep", f"open({str(note)!r}, 'a').write(f'{{os.getpid()}} {{os.getcwd()}}\\n')\ntime.sleep"
    )
    python = PythonInterpreter(timeout_seconds=PATIENCE)
    await python.run("1")  # asyncio opens files of its own for the first process
    before = open_files()
    call = asyncio.create_task(python.run(code))
    while not note.exists() or len(note.read_text().splitlines()) < 2:
        await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    pids, folders = zip(*(line.split() for line in note.read_text().splitlines()), strict=True)
    assert_gone(*map(int, pids))
    assert not Path(folders[0]).exists()
    assert open_files() == before


async def test_cancellation_at_any_moment_of_the_start_leaves_no_process(tmp_path):
    python = PythonInterpreter(timeout_seconds=PATIENCE)
    await python.run("1")
    before = open_files()
    for step in range(30):
        note = str(tmp_path / str(step))
        code = f"import os, time\nopen({note!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)"
        call = asyncio.create_task(python.run(code))
        await asyncio.sleep(step * 0.001)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    await asyncio.sleep(0.5)  # time enough for one that got away to leave its note
    assert_gone(*(int(note.read_text()) for note in tmp_path.iterdir() if note.read_text()))
    assert open_files() == before


async def test_32_concurrent_calls_get_their_own_answers_and_leave_no_open_file():
    python = PythonInterpreter(timeout_seconds=PATIENCE)
    await python.run("1")
    before = open_files()
    results = await asyncio.gather(*(python.run(f"open('f', 'x').write('1')\n{i} * {i}") for i in range(32)))
    assert [result.text for result in results] == [str(i * i) for i in range(32)]
    assert open_files() == before


def test_it_runs_on_the_event_loop_of_rays_actors():
    uvloop = pytest.importorskip("uvloop", reason="comes with Ray's and vLLM's requirements")

    async def calls() -> list[ToolResult]:
        return await asyncio.gather(*(PythonInterpreter(timeout_seconds=PATIENCE).run(f"{n}*{n}") for n in range(32)))

    loop = uvloop.new_event_loop()
    try:
        results = loop.run_until_complete(calls())
    finally:
        loop.close()
    assert [result.text for result in results] == [str(n * n) for n in range(32)]
