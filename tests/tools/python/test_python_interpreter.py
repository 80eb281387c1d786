"""The Python tool on real processes: what the model reads, each limit, and that nothing is left behind."""

import ast
import asyncio
import functools
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import assert_gone, descendants, named

from arpo_tools import PythonInterpreter, ToolResult, ToolStatus

pytestmark = pytest.mark.slow

# Generous, because the machine may be busy; tests of the wall-clock limit give their own.
PATIENCE = 60.0


LOOP = asyncio.new_event_loop()


@functools.cache
def interpreter(**limits) -> PythonInterpreter:
    """One for all tests with the same limits: its helper takes half a second to start, with libraries beforehand."""
    libraries = {"libraries": ()} if limits else {}
    return PythonInterpreter(**{"timeout_seconds": PATIENCE, **libraries, **limits})


@pytest.fixture(scope="module", autouse=True)
def no_helper_outlives_the_module():
    before = descendants()  # of tests of other modules
    yield
    LOOP.run_until_complete(LOOP.shutdown_asyncgens())
    LOOP.close()
    interpreter.cache_clear()
    assert descendants() - before == set()


def run(code: str, **limits) -> ToolResult:
    return LOOP.run_until_complete(interpreter(**limits).run(code))


FAMILY = """
import os, time
child = os.fork()
if child:
    print(os.getpid(), child, flush=True)
time.sleep(600)
"""
SLOW = {
    "endless loop": ("while True: pass", {"timeout_seconds": 2}),
    "flushed": ("print('before', flush=True)\nwhile True: pass", {"timeout_seconds": 2}),
    "printed, then loop": ("print('before')\nwhile True: pass", {"timeout_seconds": 2}),
    "printed, then sleep": ("print('before')\nimport time; time.sleep(600)", {"timeout_seconds": 2}),
    "family": (FAMILY, {"timeout_seconds": 2, "isolation": "limits"}),
    "processor time": ("while True: pass", {"cpu_seconds": 1}),
    "memory at once": ("print('before')\nbytearray(1 << 30)", {"memory_mb": 256}),
    "memory bit by bit": ("print('before')\nx = []\nwhile True: x.append(bytes(1000))", {"memory_mb": 256}),
    "memory in small objects": ("print('before')\nx = None\nwhile True: x = [x]", {"memory_mb": 256}),
    "memory of NumPy": ("print('before')\nimport numpy\nnumpy.ones(1 << 30)", {"memory_mb": 256}),
    "endless output": ("while True: print('x' * 999)", {"max_output_chars": 10, "file_mb": 1}),
}


@pytest.fixture(scope="module")
def slow() -> dict[str, tuple[ToolResult, float]]:
    """The results of programs that last until a limit ends them, and their seconds; they run at the same time."""

    async def timed(code: str, limits: dict) -> tuple[ToolResult, float]:
        python = interpreter(**limits)
        await python.start()
        start = time.monotonic()
        return await python.run(code), time.monotonic() - start

    async def together() -> list[tuple[ToolResult, float]]:
        return await asyncio.gather(*(timed(*call) for call in SLOW.values()))

    return dict(zip(SLOW, LOOP.run_until_complete(together()), strict=True))


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


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("```python\nx = 6\nx * 7\n```", "42"),
        ("```py\n6 * 7\n```", "42"),
        ("~~~\n6 * 7\n~~~", "42"),
        ("Let me compute it:\n\n```python\nprint(6 * 7)\n```\nThat is it.", "42"),
        ("\n    x = 6\n    if x:\n        print(x * 7)\n", "42"),
        ("x = 6\n    print(x * 7)", "42"),
    ],
)
def test_fences_and_indentation_around_a_program_are_no_errors(code, text):
    assert run(code) == ToolResult(text, ToolStatus.OK)


def test_a_valid_program_is_never_taken_for_something_else():
    assert run("python = 5\n~~~python") == ToolResult("-6", ToolStatus.OK)
    assert run("s = '''\n```python\n1 / 0\n```\n'''\nlen(s)") == ToolResult("21", ToolStatus.OK)


@pytest.mark.parametrize(
    "code", ["```python\nx = 1\ny = (\n```", "Text.\n```\n    y = (\n```", "    x = 1\n\n    y = ("]
)
def test_errors_of_a_program_in_fences_name_the_line_that_the_model_wrote(code):
    assert "line 3\n    y = (\n        ^\nSyntaxError: '(' was never closed" in run(code).text


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


@pytest.mark.parametrize("leave", ["raise SystemExit", "import sys\nsys.exit(0)", "exit()", "quit()"])
def test_leaving_with_code_0_is_no_error(leave):
    assert run(f"print('bye')\n{leave}") == ToolResult("bye", ToolStatus.OK)


@pytest.mark.parametrize("leave", ["sys.exit(3)", "os._exit(3)"])
def test_leaving_with_any_other_code_is_a_model_error_with_a_text(leave):
    result = run(f"import os, sys\n{leave}")
    assert result.status is ToolStatus.MODEL_ERROR
    assert result.text


def test_no_secret_of_the_parent_is_in_the_environment(monkeypatch):
    monkeypatch.setenv("ARPO_TEST_SECRET", "sesame")
    result = asyncio.run(PythonInterpreter(timeout_seconds=PATIENCE, libraries=()).run("import os\ndict(os.environ)"))
    assert "sesame" not in result.text
    assert set(ast.literal_eval(result.text)) == {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"}


def test_every_call_starts_afresh():
    first = run("x = 1\nimport sys\nsys.modules['left'] = sys\nopen('f', 'w').write('1')", scratch_mb=1)
    second = run("import os, sys\n'x' in dir(), 'left' in sys.modules, os.listdir()", scratch_mb=1)
    assert (first.text, second.text) == ("1", "(False, False, [])")


@pytest.mark.parametrize(
    "draw",
    [
        "import random; random.random()",
        "import numpy; numpy.random.random()",
        "import numpy; numpy.random.default_rng().random()",
        "from sympy.core.random import random; random()",
    ],
)
def test_every_call_draws_its_own_random_numbers(draw):
    drawn = {run(draw).text for _ in range(8)}
    assert len(drawn) == 8


def test_the_hash_seed_that_calls_share_is_a_known_one_and_no_secret_of_the_helper():
    code = "hash('entropy'), hash(b'entropy'), [*{'a', 'b', 'c', 'd', 'e'}]"
    command = [sys.executable, "-c", f"print(({code}))"]
    known = subprocess.check_output(command, env={"PYTHONHASHSEED": "0"}, text=True).strip()
    assert {run(code).text, run(code, file_mb=1, scratch_mb=8).text} == {known}


def test_a_fresh_interpreter_has_a_hash_seed_and_addresses_of_its_own_and_leaves_nothing_behind():
    python = PythonInterpreter(timeout_seconds=PATIENCE, libraries=(), fresh_interpreter=True, max_children=2)

    async def calls() -> list[ToolResult]:
        return await asyncio.gather(*(python.run("hash('entropy'), id(object())") for _ in range(4)))

    before = descendants()
    drawn = [ast.literal_eval(result.text) for result in asyncio.run(calls())]
    assert [len({*values}) for values in zip(*drawn, strict=True)] == [4, 4]
    assert descendants() == before


def test_what_a_program_sets_on_its_standard_input_is_not_set_for_the_next():
    code = "from fcntl import *\nimport os\nprint(fcntl(0, F_GETFL) & os.O_APPEND)\n_ = fcntl(0, F_SETFL, os.O_APPEND)"
    assert {run(code).text for _ in range(3)} == {"0"}


def test_working_directory_is_empty_and_cannot_be_written():
    assert run("import os\nos.listdir()") == ToolResult("[]", ToolStatus.OK)
    assert "Read-only file system" in run("open('f', 'w')").text
    assert run("import os\nos.listdir()") == ToolResult("[]", ToolStatus.OK)


def test_scratch_directory_can_be_written_and_is_empty_again_afterwards():
    work = "import os\nos.makedirs('a/b')\nopen('a/f', 'w').write('x')\nos.rename('a/f', 'g')\nprint(open('g').read())"
    assert run(f"{work}\nos.getcwd()", scratch_mb=1).status is ToolStatus.OK
    result = run("import os\nprint(os.listdir())\nos.getcwd()", scratch_mb=1)
    contents, folder = result.text.splitlines()
    assert contents == "[]"
    assert list(Path(folder.strip("'")).glob("*")) == []


def test_scratch_directory_has_the_size_that_was_asked_for():
    fill = "for i in range({}): open(str(i), 'wb', 0).write(bytes(1 << 20))"
    assert run(fill.format(3), scratch_mb=4) == ToolResult("(no output)", ToolStatus.EMPTY)
    result = run(fill.format(9), scratch_mb=4)
    assert "No space left on device" in result.text
    assert result.status is ToolStatus.LIMIT


def test_temporary_files_are_made_in_the_scratch_directory():
    code = "import os, tempfile\nwith tempfile.NamedTemporaryFile(dir=None) as f:\n    print(os.path.dirname(f.name))"
    first, second = run(f"{code}\nprint(os.getcwd())", scratch_mb=1).text.splitlines()
    assert first == second


@pytest.mark.parametrize(
    "prank",
    [
        "os.mkdir('a'); os.chdir('a'); os.rmdir('../a')",
        "os.symlink('/', 'root')",
        "[(os.mkdir('a'), os.chdir('a')) for _ in range(1200)]",
        "[open(str(i), 'w') for i in range(50)]",
    ],
)
def test_pranks_with_the_scratch_directory_change_nothing(prank):
    assert run(f"import os\n{prank}\nprint('done')", scratch_mb=1) == ToolResult("done", ToolStatus.OK)
    assert run("import os\nos.listdir()", scratch_mb=1) == ToolResult("[]", ToolStatus.OK)


def test_timeout_kills_infinite_loop(slow):
    result, seconds = slow["endless loop"]
    assert result == ToolResult("TimeoutError: the call took longer than 2 s", ToolStatus.TIMEOUT)
    assert seconds < 12


@pytest.mark.parametrize("name", ["flushed", "printed, then loop", "printed, then sleep"])
def test_timeout_keeps_earlier_prints(slow, name):
    assert slow[name][0] == ToolResult("before\nTimeoutError: the call took longer than 2 s", ToolStatus.TIMEOUT)


@pytest.mark.parametrize("death", ["os._exit(1)", "os.kill(os.getpid(), 9)", "os.abort()"])
def test_sudden_death_keeps_earlier_prints(death):
    result = run(f"import os\nprint('before')\n{death}")
    assert result.status is ToolStatus.MODEL_ERROR
    assert result.text.startswith("before")


def test_timeout_leaves_neither_child_nor_grandchild(slow):
    result, _ = slow["family"]
    assert result.status is ToolStatus.TIMEOUT
    child, grandchild = map(int, result.text.splitlines()[0].split())
    assert_gone(child, grandchild)


def test_a_grandchild_neither_keeps_the_call_open_nor_outlives_it():
    start = time.monotonic()
    code = "import os, time\nchild = os.fork()\nif child:\n    print(child)\nelse:\n    time.sleep(600)"
    result = run(code, isolation="limits")
    assert result.status is ToolStatus.OK
    assert time.monotonic() - start < 30
    assert_gone(int(result.text))


def test_descendants_that_keep_forking_out_of_their_session_do_not_outlive_the_call():
    code = "import os, time\nend = time.time() + 20\nif os.fork() == 0:\n    while time.time() < end:\n"
    code += "        os.setsid() if os.getpgrp() != os.getpid() else None\n        if os.fork(): os._exit(0)"
    result = run(f"{code}\nelse:\n    time.sleep(0.3)\nprint('done')", isolation="limits")
    assert result.text == "done"
    assert_gone(*named("arpo-program"))


def test_a_grandchild_that_leaves_its_session_does_not_outlive_the_call():
    code = (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(600)\n    os._exit(0)"
    )
    assert run(f"{code}\nos.wait()\nprint('done')", isolation="limits").text == "done"
    assert_gone(*named("arpo-program"))


@pytest.mark.parametrize("name", [name for name in SLOW if name.startswith("memory")])
def test_memory_limit_is_a_limit_and_keeps_earlier_prints(slow, name):
    assert slow[name][0] == ToolResult("before\nMemoryError: the memory limit is 256 MB", ToolStatus.LIMIT)


def test_cpu_limit_is_a_limit_and_ends_the_call_before_the_wall_clock_limit(slow):
    result, seconds = slow["processor time"]
    assert result == ToolResult("Error: the CPU limit is 1 s", ToolStatus.LIMIT)
    assert seconds < PATIENCE


@pytest.mark.parametrize("code", ["f.write(bytes(1 << 21))", "[f.write(bytes(1 << 20)) for _ in range(3)]"])
def test_file_size_limit_is_a_limit(code):
    result = run(f"f = open('f', 'wb', buffering=0)\n{code}\nf.write(b'more')", file_mb=1, scratch_mb=8)
    assert "File too large" in result.text
    assert result.status is ToolStatus.LIMIT


def test_a_file_of_the_size_limit_may_be_written():
    result = run("open('f', 'wb').write(bytes(1 << 20))", file_mb=1, scratch_mb=8)
    assert result == ToolResult("1048576", ToolStatus.OK)


def test_output_up_to_the_limit_is_whole_and_one_character_more_is_cut():
    assert run("print('x' * 10)", max_output_chars=10) == ToolResult("x" * 10, ToolStatus.OK)
    cut = ToolResult("x" * 10 + "\n...(output cut)", ToolStatus.LIMIT)
    assert run("print('x' * 11)", max_output_chars=10) == cut


def test_output_limit_counts_characters_not_bytes():
    assert run("print('😀' * 5)", max_output_chars=5) == ToolResult("😀" * 5, ToolStatus.OK)
    assert run("print('😀' * 6)", max_output_chars=5).text == "😀" * 5 + "\n...(output cut)"


def test_endless_output_ends_long_before_the_wall_clock_limit(slow):
    result, seconds = slow["endless output"]
    assert result == ToolResult("x" * 10 + "\n...(output cut)", ToolStatus.LIMIT)
    assert seconds < 30
