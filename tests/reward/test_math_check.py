r"""The processes that compare mathematics: killed when stuck, replaced when dead, gone with their owner.

What is equal to what: `test_math.py`.
"""

import contextlib
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from processes import assert_gone, descendants

from arpo_verl.reward import math_check
from arpo_verl.reward.math_check import CHECK_TIMEOUT_SECONDS, LONGEST_ANSWER, MathChecker, MathCheckResult

pytestmark = pytest.mark.slow

SLACK_SECONDS = 10
"""What a machine that runs everybody's tests may add to a limit."""
STUCK = "9^{9^{9}}"
WRONG = MathCheckResult.DIFFERENT
RIGHT = (r"\sqrt{12}", [r"2\sqrt{3}"])
BOMBS = [
    STUCK,
    "(9^9^9)!",
    "1000000000!",
    "10^{10^{8}}",
    r"\binom{10^9}{5 \cdot 10^8}",
    r"\sum_{i=1}^{10^9} i^{99}",
    r"\prod_{i=1}^{10^9} i",
    r"\int_0^1 x^{x^{x^{x}}} dx",
    "(" * 200 + "1" + ")" * 200,
    "{" * 240 + "}" * 240,
    r"\sqrt{" * 70 + "2" + "}" * 70,
    r"\frac{1}{" * 50 + "2" + "}" * 50,
    "(x+1)^{1000000}",
    "x" * LONGEST_ANSWER,
    r"\{" + ",".join(map(str, range(150))) + r"\}",
    "1" * 200_000,
    r"\{" + ",".join(map(str, range(3000))) + r"\}",
    r"\left" * 90,
]


@pytest.fixture(autouse=True)
def alone() -> None:
    """End what earlier tests of this process have left running, so that processes can be counted."""
    for checker in list(math_check._checkers):
        checker.close()


@pytest.fixture
def checker() -> Iterator[MathChecker]:
    with contextlib.closing(MathChecker()) as checker:
        yield checker


def processes(owner: int | None = None) -> set[int]:
    """Return the fork server of a process and its workers."""
    return {pid for pid in descendants(owner) if b"math_fork_server.py" in command_line(pid)}


def fork_servers(owner: int | None = None) -> set[int]:
    return {pid for pid in processes(owner) if parent_of(pid) == (owner or os.getpid())}


def workers(owner: int | None = None) -> set[int]:
    return processes(owner) - fork_servers(owner)


def parent_of(pid: int) -> int:
    return int(status(pid).get("PPid", 0))


def status(pid: int) -> dict[str, str]:
    """Return /proc/PID/status, empty if the process is gone."""
    try:
        with open(f"/proc/{pid}/status") as file:
            return dict(line.strip().split(":", 1) for line in file)
    except OSError:
        return {}


def command_line(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


def test_bombs_end_within_the_limit_and_the_next_answer_is_accepted(checker):
    assert checker.check(*RIGHT) is MathCheckResult.EQUAL
    (fork_server,) = fork_servers()
    descriptors = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(2) as threads:
        for bomb, verdict in zip(BOMBS, threads.map(functools.partial(set_off, checker), BOMBS), strict=True):
            assert verdict in (
                (MathCheckResult.TOO_LONG,) if len(bomb) > LONGEST_ANSWER else (MathCheckResult.TIMEOUT, WRONG)
            ), bomb
    assert fork_servers() == {fork_server}
    assert len(workers()) <= 2
    assert descendants() == processes()  # no zombies, which have no command line
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 1


def set_off(checker: MathChecker, bomb: str) -> MathCheckResult:
    start = time.monotonic()
    verdict = checker.check(bomb, ["5"], timeout_seconds=1)
    assert time.monotonic() - start < 1 + SLACK_SECONDS
    assert checker.check(*RIGHT) is MathCheckResult.EQUAL
    return verdict


def test_a_stuck_check_takes_its_time_and_no_more(checker):
    assert checker.check(*RIGHT) is MathCheckResult.EQUAL
    start = time.monotonic()
    assert checker.check(STUCK, ["5"], timeout_seconds=0.5) is MathCheckResult.TIMEOUT
    assert 0.5 <= time.monotonic() - start < 0.5 + SLACK_SECONDS
    assert workers() == set()


def test_after_four_stuck_workers_right_answers_are_accepted_at_once(checker):
    with ThreadPoolExecutor(8) as threads:
        stuck = [threads.submit(checker.check, STUCK, ["5"], 2) for _ in range(4)]
        right = [threads.submit(checker.check, *RIGHT) for _ in range(4)]
        assert {check.result() for check in stuck} == {MathCheckResult.TIMEOUT}
        start = time.monotonic()
        assert {check.result() for check in right} == {MathCheckResult.EQUAL}
        assert time.monotonic() - start < CHECK_TIMEOUT_SECONDS
    assert 1 <= len(workers()) <= 4
    assert len(fork_servers()) == 1


def test_a_worker_that_was_killed_while_idle_costs_nothing(checker):
    assert checker.check(*RIGHT) is MathCheckResult.EQUAL
    (worker,) = workers()
    os.kill(worker, signal.SIGKILL)
    assert checker.check(*RIGHT) is MathCheckResult.EQUAL
    assert checker.check(*RIGHT) is MathCheckResult.EQUAL
    assert workers().isdisjoint({worker})


@pytest.mark.parametrize("killed", ["its worker", "the fork server"])
def test_a_check_is_repeated_once_when_a_process_is_killed(checker, killed):
    assert checker.check(*RIGHT) is MathCheckResult.EQUAL
    with ThreadPoolExecutor(1) as threads:
        check = threads.submit(checker.check, STUCK, ["5"], 60)
        seen: set[int] = set()
        for _ in range(2):
            victim = wait_for(lambda: (workers() if killed == "its worker" else fork_servers()) - seen)
            time.sleep(0.2)  # it has the question by then, or gets it after its death
            os.kill(victim, signal.SIGKILL)
            seen.add(victim)
        assert check.result(60) is MathCheckResult.FAILED
    assert checker.check(*RIGHT) is MathCheckResult.EQUAL
    assert_gone(*seen)


def wait_for(pids: Callable[[], set[int]]) -> int:
    """Return the first process that is there."""
    deadline = time.monotonic() + 60
    while not pids():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return min(pids())


def test_a_worker_has_only_so_much_memory():
    with contextlib.closing(MathChecker(workers=1, memory_mib=256)) as checker:
        # A number of 2 GB. math-verify takes an error of memory for a difference.
        assert checker.check("2^{2^{34}}", ["5"], timeout_seconds=60) is MathCheckResult.DIFFERENT
        (worker,) = workers()
        assert int(status(worker)["VmPeak"].split()[0]) <= 256 << 10
        assert checker.check(*RIGHT) is MathCheckResult.EQUAL


def test_sixteen_threads_share_four_workers(checker):
    def check(number: int) -> MathCheckResult:
        truth = number if number % 3 else number + 1
        return checker.check(rf"\sqrt{{{number**2}}}", [rf"\frac{{{2 * truth}}}{{2}}"])

    with ThreadPoolExecutor(16) as threads:
        verdicts = list(threads.map(check, range(1, 201)))
    assert verdicts == [MathCheckResult.EQUAL if number % 3 else MathCheckResult.DIFFERENT for number in range(1, 201)]
    assert len(workers()) == 4


def test_nobody_overtakes_in_the_queue():
    order = []
    turns = math_check._FairSemaphore(1)

    def take_a_turn(number: int) -> None:
        with turns.slot():
            order.append(number)
            time.sleep(0.001)

    with ThreadPoolExecutor(16) as threads:
        with turns.slot():
            for number in range(16):
                threads.submit(take_a_turn, number)
                while len(turns._waiting) <= number:
                    time.sleep(0.001)
        time.sleep(0.001)
    assert order == list(range(16))


def test_an_interrupted_caller_leaves_the_queue(monkeypatch):
    class Interrupted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            raise KeyboardInterrupt

    turns = math_check._FairSemaphore(1)
    with turns.slot():
        monkeypatch.setattr(threading, "Event", Interrupted)
        with pytest.raises(KeyboardInterrupt), turns.slot():
            pass
        monkeypatch.undo()
    with turns.slot():
        assert not turns._waiting


def test_plain_answers_start_no_worker(checker):
    assert checker.check("0.5", ["1/2"]) is MathCheckResult.EQUAL
    assert checker.check("5", ["6"]) is MathCheckResult.DIFFERENT
    assert checker.check(r"\frac12", [r"\frac12"]) is MathCheckResult.EQUAL
    assert checker.check(r"\frac12 " * 100, ["6"]) is MathCheckResult.TOO_LONG
    assert processes() == set()


def test_a_worker_ends_after_its_share_of_checks(checker, monkeypatch):
    monkeypatch.setattr(math_check, "_MOST_CHECKS", 2)
    assert checker.check(*RIGHT) is MathCheckResult.EQUAL
    assert len(workers()) == 1
    assert checker.check(*RIGHT) is MathCheckResult.EQUAL
    assert workers() == set()


def test_a_forked_child_starts_workers_of_its_own(checker):
    assert checker.check(*RIGHT) is MathCheckResult.EQUAL
    (ours,) = workers()
    child = os.fork()
    if child == 0:
        is_right = checker.check(*RIGHT) is MathCheckResult.EQUAL and checker.check(*RIGHT) is MathCheckResult.EQUAL
        checker.close()
        os._exit(0 if is_right else 1)
    assert checker.check(*RIGHT) is MathCheckResult.EQUAL
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert workers() == {ours}


def test_a_closed_checker_can_be_used_again(checker):
    assert checker.check(*RIGHT) is MathCheckResult.EQUAL
    checker.close()
    assert processes() == set()
    assert checker.check(*RIGHT) is MathCheckResult.EQUAL


OWNER = r"""
import os, sys, threading, time
from arpo_verl.reward.math_check import MathChecker

checker = MathChecker(workers=2)
checker.check(r"\sqrt{12}", [r"2\sqrt{3}"])
threading.Thread(target=checker.check, args=("9^{9^{9}}", ["5"], 60), daemon=True).start()
time.sleep(0.5)
checker.check(r"\sqrt{12}", [r"2\sqrt{3}"])
if sys.argv[1] == "fork" and os.fork() == 0:
    time.sleep(60)
print(flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("end", ["exit", "kill", "fork"])
def test_no_process_outlives_the_owner(end):
    command = [sys.executable, "-c", OWNER, end]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as owner:
        owner.stdout.readline()
        all_three = processes(owner.pid)
        assert len(all_three) == 3  # the fork server, an idle worker, a stuck one
        bystanders = descendants(owner.pid) - all_three  # the fork, which holds copies of the owner's connections
        assert len(bystanders) == (end == "fork")
        if end == "exit":
            owner.stdin.close()
            assert owner.wait(30) == 0
            assert owner.stderr.read() == b""
        else:
            owner.kill()
        assert_gone(*all_three)
        for pid in bystanders:
            os.kill(pid, signal.SIGKILL)


def test_a_worker_is_alone(checker, monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "1234")
    assert checker.check(*RIGHT) is MathCheckResult.EQUAL
    (worker,) = workers()
    with open(f"/proc/{worker}/environ", "rb") as file:
        assert b"SECRET_KEY" not in file.read()
    with open(f"/proc/{worker}/maps") as file:
        assert "torch" not in file.read()
    files = {os.readlink(f"/proc/{worker}/fd/{name}") for name in os.listdir(f"/proc/{worker}/fd")}
    assert {name.partition(":")[0] for name in files} == {"socket", "/dev/null"}


def test_a_missing_math_verify_is_an_error_that_says_so(checker, monkeypatch):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "site-packages" not in path])
    with pytest.raises(ImportError, match=r"need math-verify: No module named '[a-z0-9_]+'; pip install"):
        checker.check(*RIGHT)
    assert processes() == set()


def test_a_python_that_does_not_start_is_a_failed_check(checker, monkeypatch, caplog):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert checker.check(*RIGHT) is MathCheckResult.FAILED
    monkeypatch.setattr(sys, "executable", "/no/python")
    assert checker.check(*RIGHT) is MathCheckResult.FAILED
    assert "a comparison failed twice" in caplog.text
    monkeypatch.undo()
    assert checker.check(*RIGHT) is MathCheckResult.EQUAL
