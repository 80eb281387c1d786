"""The helper of the Python tool: its options, cancellation, many calls at once, deaths; nothing outlives its owner."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import assert_gone, descendants, helpers, named

from arpo_tools import PythonInterpreter, ToolResult, ToolStatus

pytestmark = pytest.mark.slow

# Generous, because the machine may be busy; tests of the wall-clock limit give their own.
PATIENCE = 60.0


def interpreter(**options) -> PythonInterpreter:
    """Return one whose helper starts at once, as it imports no libraries beforehand."""
    return PythonInterpreter(**{"timeout_seconds": PATIENCE, "libraries": (), **options})


@pytest.fixture
def started() -> Callable[[], set[int]]:
    """What tells the processes that this one has started since the test began; those of other tests may live on."""
    before = descendants()
    return lambda: descendants() - before


async def running_programs() -> set[int]:
    """Wait until a program runs; return the processes of all that do."""
    while not (programs := named("arpo-program")):
        await asyncio.sleep(0.01)
    return programs


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_cancellation_leaves_no_process_and_no_open_file():
    python = interpreter()
    await python.run("1")
    files = open_files()
    call = asyncio.create_task(python.run("import time; time.sleep(600)"))
    programs = await running_programs()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert open_files() == files
    await python.run("1")  # the helper has done what it was told before
    assert_gone(*programs)


async def test_cancellation_at_any_moment_leaves_no_process():
    python = interpreter()
    await python.run("1")
    files = open_files()
    for step in range(30):
        call = asyncio.create_task(python.run("import time; time.sleep(600)"))
        await asyncio.sleep(step * 0.001)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    await python.run("1")
    assert_gone(*named("arpo-program"))
    assert open_files() == files


async def test_cancellation_of_the_first_call_leaves_the_helper_to_the_others():
    python = interpreter()
    first, second = asyncio.create_task(python.run("1")), asyncio.create_task(python.run("2"))
    await asyncio.sleep(0.05)
    first.cancel()
    assert (await second).text == "2"


async def test_32_concurrent_calls_get_their_own_answers_and_leave_no_open_file():
    python = PythonInterpreter(timeout_seconds=PATIENCE)
    await python.run("1")
    before = open_files()
    results = await asyncio.gather(*(python.run(f"{i} * {i}") for i in range(32)))
    assert [result.text for result in results] == [str(i * i) for i in range(32)]
    assert open_files() == before


async def test_a_burst_of_128_calls_is_answered():
    python = interpreter(max_children=128)
    await python.run("1")
    results = await asyncio.gather(*(python.run(f"{i} * {i}") for i in range(128)))
    assert [result.text for result in results] == [str(i * i) for i in range(128)]


async def test_calls_beyond_max_children_wait_for_their_turn_without_losing_time():
    python = interpreter(timeout_seconds=1, max_children=2)
    results = await asyncio.gather(*(python.run("import time; time.sleep(0.15)") for _ in range(16)))
    # 8 turns of 0.15 s each are more than the limit of a call.
    assert {result.status for result in results} == {ToolStatus.EMPTY}


async def test_a_dead_helper_is_an_infrastructure_error_and_the_next_call_has_a_new_one():
    python = interpreter()
    await python.run("1")
    (helper,) = helpers()
    call = asyncio.create_task(python.run("import time; time.sleep(600)"))
    programs = await running_programs()
    os.kill(helper, 9)
    assert (await call).status is ToolStatus.INFRASTRUCTURE_ERROR
    assert_gone(helper, *programs)
    assert (await python.run("6 * 7")).text == "42"


async def test_the_directory_of_a_killed_helper_is_removed_by_the_next_and_that_of_a_living_one_is_not():
    alive, killed = interpreter(), interpreter()
    folder = Path((await alive.run("import os; print(os.getcwd())")).text)
    if not folder.exists():
        pytest.skip("bubblewrap keeps the directory to itself")
    left = Path((await killed.run("import os; print(os.getcwd())")).text)
    helper = (await killed._helper())[0]._helper.process.pid
    spare = descendants(helper)
    os.kill(helper, 9)
    assert_gone(helper, *spare)
    assert (await killed.run("6 * 7")).text == "42"
    assert not left.exists()
    assert folder.exists()
    alive.close()
    killed.close()
    assert not folder.exists()


async def test_a_helper_that_is_stuck_is_replaced(monkeypatch):
    monkeypatch.setattr("arpo_tools.sandbox.client._GRACE_SECONDS", 0.2)
    monkeypatch.setattr("arpo_tools.sandbox.launch.STOP_SECONDS", 0.2)
    python = interpreter(timeout_seconds=0.2)
    await python.start()
    (helper,) = helpers()
    os.kill(helper, 19)  # SIGSTOP
    assert (await python.run("1")).status is ToolStatus.INFRASTRUCTURE_ERROR
    assert_gone(helper)
    assert (await python.start()).level


def test_a_helper_ends_with_its_event_loop(started):
    python = interpreter()
    before = open_files()
    for _ in range(2):  # the second loop needs a helper of its own
        assert asyncio.run(python.run("6 * 7")).text == "42"
        assert started() == set()
    assert open_files() == before


def test_a_helper_ends_with_its_owner(started):
    loop = asyncio.new_event_loop()
    python = interpreter()
    loop.run_until_complete(python.run("1"))
    loop.close()
    assert started()
    del python
    assert started() == set()


def test_a_helper_that_ended_with_its_thread_is_replaced():
    loop = asyncio.new_event_loop()
    python = interpreter()
    results = []
    for _ in range(2):
        thread = threading.Thread(target=lambda: results.append(loop.run_until_complete(python.run("6 * 7"))))
        thread.start()
        thread.join()
        assert_gone(*helpers())  # the kernel ends it with the thread
    assert [result.text for result in results] == ["42", "42"]
    python.close()
    loop.close()


async def test_a_closed_interpreter_ends_the_calls_in_flight_and_starts_anew(started):
    python = interpreter()
    await python.run("1")
    call = asyncio.create_task(python.run("import time; time.sleep(600)"))
    await running_programs()
    python.close()
    assert (await call).status is ToolStatus.INFRASTRUCTURE_ERROR
    assert started() == set()
    assert (await python.run("6 * 7")).text == "42"


async def test_an_interpreter_closed_while_it_starts_ends_the_calls_that_wait(started):
    python = interpreter()
    call = asyncio.create_task(python.run("1"))
    await asyncio.sleep(0.05)
    python.close()
    assert (await call).status is ToolStatus.INFRASTRUCTURE_ERROR
    assert_gone(*started())  # the helper that was starting may take a moment to end


async def test_a_program_that_prints_byte_by_byte_does_not_keep_the_event_loop_busy(monkeypatch):
    python = interpreter(timeout_seconds=1, max_output_chars=10_000_000)
    await python.start()
    reads = []
    read = os.read
    monkeypatch.setattr(os, "read", lambda *arguments: reads.append(1) or read(*arguments))
    result = await python.run("import os\nwhile True: os.write(1, b'x')")
    assert result.status is ToolStatus.TIMEOUT
    assert len(result.text) > 1000  # it did print a lot
    assert len(reads) < 200  # a second has 50 pauses of 20 ms


DEAF_OWNER = """
import asyncio, signal
from arpo_tools import PythonInterpreter
for number in (signal.SIGCHLD, signal.SIGXCPU, signal.SIGTERM, signal.SIGALRM):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGXCPU, signal.SIGALRM})
python = PythonInterpreter(timeout_seconds=60, cpu_seconds=1, libraries=())

async def main():
    codes = "import time, signal; signal.setitimer(signal.ITIMER_REAL, 0.1); time.sleep(60)", "while True: pass"
    for result in await asyncio.gather(*map(python.run, codes)):
        print(result.text)

asyncio.run(main())
"""


def test_signals_that_the_owner_ignores_or_blocks_work_in_programs():
    lines = subprocess.check_output([sys.executable, "-c", DEAF_OWNER], text=True).splitlines()
    assert lines == ["Error: the process ended with code -14", "Error: the CPU limit is 1 s"]


OWNER = """
import asyncio
from arpo_tools import PythonInterpreter
python = PythonInterpreter(timeout_seconds=600, libraries=())

async def main():
    await python.run("1")
    call = asyncio.create_task(python.run("import time\\nwhile True: time.sleep(1)"))
    print("running", flush=True)
    await call

asyncio.run(main())
"""


def test_nothing_outlives_an_owner_that_is_killed():
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE)
    try:
        assert owner.stdout.readline() == b"running\n"
        while not named("arpo-program", owner.pid):
            time.sleep(0.01)
        processes = descendants(owner.pid)
    finally:
        owner.kill()
        owner.wait()
        owner.stdout.close()
    assert_gone(*processes)


def test_it_runs_on_the_event_loop_of_rays_actors():
    uvloop = pytest.importorskip("uvloop", reason="comes with Ray's and vLLM's requirements")
    python = PythonInterpreter(timeout_seconds=PATIENCE)

    async def calls() -> list[ToolResult]:
        return await asyncio.gather(*(python.run(f"{n}*{n}") for n in range(32)))

    loop = uvloop.new_event_loop()
    try:
        results = loop.run_until_complete(calls())
    finally:
        loop.close()
    assert [result.text for result in results] == [str(n * n) for n in range(32)]
    python.close()


@pytest.mark.parametrize("limit", ["timeout_seconds", "cpu_seconds", "memory_mb", "file_mb", "max_output_chars"])
@pytest.mark.parametrize("value", [0, -1])
def test_limits_that_are_not_positive_are_refused_by_name(limit, value):
    with pytest.raises(ValueError, match=f"{limit}={value}; expected a positive number"):
        PythonInterpreter(**{limit: value})


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        *(("cpu_seconds", 1.5), ("memory_mb", 1.5), ("memory_mb", 1 << 50), ("timeout_seconds", float("nan"))),
        *(("scratch_mb", -1), ("max_children", 0), ("max_children", 257), ("isolation", "none")),
    ],
)
def test_limits_that_no_call_could_run_under_are_refused_at_once(limit, value):
    with pytest.raises(ValueError, match=limit):
        PythonInterpreter(**{limit: value})


def test_it_works_without_numpy_and_sympy(monkeypatch):
    monkeypatch.setattr("arpo_tools.sandbox.launch.library_folders", lambda packages: [])
    result = asyncio.run(
        PythonInterpreter(timeout_seconds=PATIENCE).run("try:\n    import sympy\nexcept ImportError:\n    42")
    )
    assert result == ToolResult("(no output)", ToolStatus.EMPTY)


def test_too_little_memory_for_python_itself_is_said_so():
    result = asyncio.run(interpreter(memory_mb=20).run("1"))
    assert result.status is ToolStatus.INFRASTRUCTURE_ERROR
    assert "memory_mb=20" in result.text
