"""Finds out, by trying, how much of the walls this machine and the container around it allow."""

import contextlib
import os
import socket
import tempfile

from . import child, landlock
from .plan import Plan, SandboxReport
from .walls import Walls

_ESCAPE = """
import os, socket

def works(attempt, *arguments):
    try:
        attempt(*arguments)
    except OSError:
        return False
    return True

if {has_landlock} and works(open, "/proc/self/status"):
    os._exit(10)
if {has_seccomp} and (works(socket.socket) or works(os.kill, os.getppid(), 0) or works(os.fork)):
    os._exit(11)
"""
_GOT_OUT = {10: "landlock stands, and yet a file could be read", 11: "seccomp stands, and yet a refused call worked"}

_LANDLOCK_ADVICE = (
    "programs can read every file that this user may read, environments of processes among them; to change that, use "
    "Linux 5.13 or later with landlock in /sys/kernel/security/lsm, and a container that allows its system calls"
)
_SECCOMP_ADVICE = (
    "programs can use the network, start processes, signal others and write files; to change that, use a container "
    "that allows seccomp, on x86-64 or aarch64"
)
_THREADS_ADVICE = (
    "threads can't be counted and are refused; to change that, use Linux 5.5 or later, and a container without a "
    "seccomp listener of its own"
)


class TooFewWalls(OSError):
    """What was asked for can't be had on this machine."""


def raise_walls(plan: Plan, scratch: str) -> tuple[Walls, SandboxReport]:
    """Return the strongest walls that hold, of those that the plan allows, and the report on them.

    Raises:
        TooFewWalls: `isolation` or a scratch directory asks for more than there is; the message says why.
    """
    failures: dict[tuple[bool, bool, bool], str] = {}
    for has in _steps(plan):
        walls = Walls(plan.limits, plan.readable, scratch, *has)
        failures[has] = _failure_of(walls)
        if not failures[has]:
            return walls, _report(walls, failures)
    last = [*failures.values()][-1]
    if plan.isolation == "limits":
        raise TooFewWalls(f"no program can be run: {last}")
    raise TooFewWalls(
        f"isolation={plan.isolation} with scratch_mb={plan.limits.scratch_mb} needs landlock (with scratch, of ABI "
        f"{landlock.SCRATCH_ABI}) and seccomp, which can't be had here ({last}): use a kernel and a container that "
        f"allow them, or set isolation=auto and scratch_mb=0"
    )


def _steps(plan: Plan) -> list[tuple[bool, bool, bool]]:
    """Return what to try, best first: (landlock, seccomp, thread gate)."""
    if plan.isolation == "limits":
        return [(False, False, False)]
    steps = [(True, True, True), (True, True, False)]
    if plan.isolation == "auto" and not plan.limits.scratch_mb:
        steps += [(False, True, True), (False, True, False), (True, False, False), (False, False, False)]
    return steps


def _report(walls: Walls, failures: dict[tuple[bool, bool, bool], str]) -> SandboxReport:
    missing = []
    if not walls.has_landlock and (reason := failures.get((True, walls.has_seccomp, False))):
        missing.append(f"landlock ({reason}): {_LANDLOCK_ADVICE}")
    if not walls.has_seccomp and (reason := failures.get((False, True, False))):
        missing.append(f"seccomp ({reason}): {_SECCOMP_ADVICE}")
    if walls.has_seccomp and not walls.has_thread_gate:
        missing.append(f"counted threads ({failures[walls.has_landlock, True, True]}): {_THREADS_ADVICE}")
    return SandboxReport(
        has_landlock=walls.has_landlock,
        has_seccomp=walls.has_seccomp,
        has_thread_gate=walls.has_thread_gate,
        landlock_abi=landlock.abi_version() if walls.has_landlock else 0,
        missing=missing,
    )


def _failure_of(walls: Walls) -> str:
    """Make the walls ready and run a program in them that tries to get out; return why they don't hold, or ''."""
    try:
        if walls.limits.scratch_mb and walls.has_landlock and landlock.abi_version() < landlock.SCRATCH_ABI:
            return f"landlock has ABI {landlock.abi_version()}, which can't keep a program from truncating any file"
        walls.prepare()
    except OSError as error:
        return str(error)
    failure = _try_to_escape(walls)
    if failure:
        walls.close()
    return failure


def _try_to_escape(walls: Walls) -> str:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    helper = os.getpid()
    with ours, tempfile.TemporaryFile() as source, open(os.devnull, "wb") as output:
        source.write(_ESCAPE.format(has_landlock=walls.has_landlock, has_seccomp=walls.has_seccomp).encode())
        source.seek(0)
        with theirs:
            pid = os.fork()
            if pid == 0:
                child.run_child(theirs, walls, helper)
        with contextlib.suppress(BrokenPipeError):  # it may have failed by now, which it has said
            socket.send_fds(ours, [b"r"], [source.fileno(), output.fileno()])
        words = []
        while message := _hear(ours):
            words.append(message)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if child.READY not in words:
        said = words[-1].removeprefix(child.FAILED).decode("utf-8", "replace") if words else ""
        return said or f"the child ended with code {code} while its walls went up"
    return "" if code == 0 else _GOT_OUT.get(code, f"the test program ended with code {code}")


def _hear(channel: socket.socket) -> bytes:
    try:
        message, descriptors, _, _ = socket.recv_fds(channel, 4096, 2)
    except ConnectionResetError:  # it has ended with the program unread; what it said before can still be read
        message, descriptors, _, _ = socket.recv_fds(channel, 4096, 2)
    for descriptor in descriptors:
        os.close(descriptor)  # threads are refused from here on, which the program doesn't need
    return message
