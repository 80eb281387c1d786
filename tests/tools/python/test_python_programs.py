"""Programs with odd texts and odd outputs, and what programs usually do, on a real process."""

import asyncio
from collections.abc import Callable, Iterator

import pytest

from arpo_tools import PythonInterpreter, ToolResult, ToolStatus

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run() -> Iterator[Callable[[str], ToolResult]]:
    """One helper runs all programs."""
    loop, python = asyncio.new_event_loop(), PythonInterpreter(timeout_seconds=60.0)
    yield lambda code: loop.run_until_complete(python.run(code))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def test_nul_bytes_are_a_model_error(run):
    result = run("1\0 + 1")
    assert result.status is ToolStatus.MODEL_ERROR
    assert "null bytes" in result.text


def test_lone_surrogates_in_the_code_are_replaced(run):
    assert run("'\udcff\ud800'") == ToolResult("'??'", ToolStatus.OK)


def test_output_that_is_not_utf_8_is_replaced(run):
    result = run("import sys\nsys.stdout.buffer.write(b'a\\xff\\xfeb\\n')\nNone")
    assert result == ToolResult("a\ufffd\ufffdb", ToolStatus.OK)


def test_code_of_200_kb_runs(run):
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
def test_closed_output_is_an_answer_too(run, code, text, status):
    result = run(f"import os, sys\n{code}")
    assert result.status is status
    assert text in result.text


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("import threading\nt = threading.Thread(target=print, args=('in a thread',))\nt.start()", "in a thread"),
        ("import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    return 7\nasyncio.run(f())", "7"),
        ("from concurrent.futures import ThreadPoolExecutor as P\nlist(P(4).map(abs, [-1, 2]))", "[1, 2]"),
        ("import signal\nsignal.alarm(60)\nsignal.alarm(0)", "60"),
        ("import atexit\natexit.register(print, 'bye')\nNone", "bye"),
        ("import sqlite3\nsqlite3.connect(':memory:').execute('select 6*7').fetchone()", "(42,)"),
        ("import numpy\nfloat(numpy.linalg.det(numpy.eye(100)))", "1.0"),
        ("from sympy import *\nx = symbols('x')\nsolve(x**2 - 2, x)", "[-sqrt(2), sqrt(2)]"),
        ("import os\nos.cpu_count() >= 1", "True"),
        ("import platform\nplatform.platform()[:5]", "'Linux'"),
        ("import datetime\ndatetime.datetime.now().year > 2000", "True"),
        ("import colorsys\ncolorsys.rgb_to_hls(0, 0, 0)", "(0.0, 0.0, 0.0)"),  # not imported beforehand
    ],
)
def test_what_programs_usually_do_works_in_isolation(run, code, text):
    assert run(code) == ToolResult(text, ToolStatus.OK)
