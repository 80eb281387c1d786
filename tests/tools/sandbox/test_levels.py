"""What is left of the walls on machines that lack something; a filter of system calls stands for such a machine."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from arpo_tools.sandbox import bubblewrap, kernel, seccomp, syscalls
from arpo_tools.sandbox.launch import make_plan
from arpo_tools.sandbox.limits import ProgramLimits
from arpo_tools.sandbox.probe import probe

pytestmark = pytest.mark.slow

OWNER = """
import asyncio, dataclasses, json, logging, sys
from arpo_tools import PythonInterpreter
from arpo_tools.sandbox import kernel, seccomp

logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
refused, options, codes = map(json.loads, sys.argv[1:])
program = [(0x20, 0, 0, 0)]
for number, flag, error in refused:
    checks = [(0x20, 0, 0, 24), (0x45, 1, 0, flag), (0x06, 0, 0, 0x7FFF0000)] if flag else []
    program += [(0x15, 0, len(checks) + 1, number), *checks, (0x06, 0, 0, 0x50000 | error)]
kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
seccomp.install(seccomp.assemble([*program, (0x06, 0, 0, 0x7FFF0000)]))

async def main():
    python = PythonInterpreter(timeout_seconds=60, libraries=(), **options)
    results = [await python.run(code) for code in codes]
    report = dataclasses.asdict(await python.start()) if results[0].status.value != "infrastructure_error" else {}
    print(json.dumps({"results": [[r.text, r.status.value] for r in results], "report": report}))

asyncio.run(main())
"""
EPERM, ENOSYS, EBUSY = 1, 38, 16
COLUMN = kernel.MACHINES.get(kernel.machine(), 0)


def number(name: str) -> int:
    groups = {name: row for group in syscalls.GROUPS for name, row in group.items()}
    return groups[name][COLUMN]


NO_LANDLOCK = [(444, 0, ENOSYS)]
NO_SECCOMP = [(number("seccomp"), 0, EPERM)]
NO_LISTENER = [(number("seccomp"), 8, EBUSY)]
NO_NAMESPACES = [(number(name), 0, EPERM) for name in ("unshare", "mount", "setns")]


def own(refused: list, codes: list[str], **options) -> dict:
    """Run programs where some system calls are refused; return results, report and what was logged."""
    arguments = [json.dumps(value) for value in (refused, options, codes)]
    output = subprocess.check_output([sys.executable, "-c", OWNER, *arguments], text=True)
    *log, answer = output.splitlines()
    return json.loads(answer) | {"log": log}


WRITE = "open('/tmp/arpo-must-not-be', 'w')"
NETWORK = "import socket\nsocket.socket()"
FORK = "import os\nif os.fork() == 0: os._exit(0)"
READ = "open('/proc/self/status').read()[:5]"
THREAD = "import threading\nthreading.Thread(target=print, args=(1,)).start()"


@pytest.mark.parametrize(
    ("refused", "walls", "blocked", "allowed"),
    [
        ([], {"landlock", "seccomp"}, [WRITE, NETWORK, FORK, READ], [THREAD]),
        (NO_NAMESPACES, {"landlock", "seccomp"}, [WRITE, NETWORK, FORK, READ], [THREAD]),
        (NO_LISTENER, {"landlock", "seccomp"}, [WRITE, NETWORK, FORK, READ, THREAD], []),
        (NO_LANDLOCK, {"seccomp"}, [WRITE, NETWORK, FORK], [READ, THREAD]),
        (NO_SECCOMP, {"landlock"}, [WRITE, READ], [NETWORK, FORK, THREAD]),
        (NO_SECCOMP + NO_LANDLOCK, set(), [], [NETWORK, FORK, READ, THREAD]),
    ],
)
def test_what_is_left_still_holds_and_what_is_missing_is_said(refused, walls, blocked, allowed):
    answer = own(refused, [*blocked, *allowed, "6 * 7"])
    outcomes = [status for _, status in answer["results"]]
    assert outcomes[: len(blocked)] == ["model_error"] * len(blocked)
    assert "model_error" not in outcomes[len(blocked) :]
    assert answer["results"][-1] == ["42", "ok"]
    report = answer["report"]
    assert {name for name in ("landlock", "seccomp") if report[f"has_{name}"]} == walls
    assert not os.path.exists("/tmp/arpo-must-not-be")
    missing = {"landlock", "seccomp"} - walls
    assert len([line for line in answer["log"] if line.startswith("WARNING")]) == bool(missing)
    for name in missing:
        assert any(line.startswith(f"{name} (") for line in report["missing"])


STRICT = """
    try:
        python = PythonInterpreter(isolation="strict")
    except SandboxUnavailable as error:
        print(error)
"""


@pytest.mark.parametrize("refused", [NO_LANDLOCK, NO_SECCOMP])
def test_strict_isolation_refuses_to_start_without_its_walls_and_names_the_reason(refused):
    code = OWNER.partition("async def main")[0] + "from arpo_tools.sandbox.probe import SandboxUnavailable\n"
    code += textwrap.dedent(STRICT)
    arguments = [json.dumps(value) for value in (refused, {}, [])]
    message = subprocess.check_output([sys.executable, "-c", code, *arguments], text=True)
    assert "isolation=strict" in message
    assert os.strerror(refused[0][2]) in message
    assert "set isolation=auto" in message


def test_a_scratch_directory_that_cannot_be_had_is_an_infrastructure_error_that_says_why():
    text, status = own(NO_NAMESPACES, ["1"], scratch_mb=4)["results"][0]
    assert status == "infrastructure_error"
    assert "scratch_mb=4 needs" in text


def test_weakest_isolation_is_chosen_without_a_warning():
    answer = own([], [FORK, NETWORK], isolation="limits")
    assert [status for _, status in answer["results"]] == ["empty", "ok"]
    assert answer["log"] == []


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_bubblewrap_hides_other_processes_and_files_even_from_programs_without_walls():
    plan = make_plan(ProgramLimits(60, 5, 1024, 16), "auto")
    command = bubblewrap.bubblewrap_command(shutil.which("bwrap"), [*plan.readable, os.path.realpath(sys.executable)])
    if subprocess.run([*command, os.path.realpath(sys.executable), "-c", ""], check=False).returncode != 0:
        pytest.skip("bubblewrap doesn't work on this machine")
    code = "import os; print(len([p for p in os.listdir('/proc') if p.isdigit()]), os.path.exists('/etc/passwd'))"
    seen = subprocess.check_output([*command, os.path.realpath(sys.executable), "-I", "-S", "-c", code], text=True)
    assert seen.split() == ["2", "False"]  # bubblewrap and the program
    assert probe(plan, shutil.which("bwrap")).level == "bubblewrap+landlock+seccomp"


@pytest.mark.parametrize("machine", kernel.MACHINES)
@pytest.mark.parametrize("has_scratch", [False, True])
def test_the_filter_names_the_own_process_for_every_call_that_sends_a_signal(machine, has_scratch):
    program = seccomp.build_filter(has_scratch, on_machine=machine)
    mine = seccomp.for_process(program, 4711)
    places = [at for at in range(0, len(mine), 8) if mine[at + 4 : at + 8] == (4711).to_bytes(4, "little")]
    # kill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo and prlimit64; nothing else was changed.
    assert len(places) == 5
    assert sum(a != b for a, b in zip(program, mine, strict=True)) <= 5 * 4


def test_the_filter_refuses_a_machine_that_it_has_no_table_for():
    with pytest.raises(OSError, match="no table of system calls for riscv64"):
        seccomp.build_filter(on_machine="riscv64")


HEADERS = {0: "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", 1: "/usr/include/asm-generic/unistd.h"}


@pytest.mark.parametrize("column", [0, 1])
def test_the_numbers_of_system_calls_are_those_of_the_kernels_headers(column):
    if not os.path.exists(HEADERS[column]):
        pytest.skip("the kernel's headers are not installed")
    numbers = {}
    for line in Path(HEADERS[column]).read_text().splitlines():
        words = line.split()
        if len(words) >= 3 and words[0] == "#define" and words[2].isdigit():
            name = words[1].removeprefix("__NR3264_").removeprefix("__NR_")
            numbers["newfstatat" if name == "fstatat" else name] = int(words[2])
    known = {name: row[column] for group in syscalls.GROUPS for name, row in group.items()}
    newer = {name for name in known if name not in numbers}
    assert newer <= {"fchmodat2", "memfd_secret"} | {name for name in known if known[name] is None}
    assert {name: known[name] for name in known if name in numbers} == {
        name: numbers[name] for name in known if name in numbers
    }
