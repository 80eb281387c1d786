"""Finds out, by trying, how much isolation this machine and the container around it allow."""

import contextlib
import os
import socket
import tempfile

from . import child, landlock
from .isolation import Isolation
from .plan import Plan, SandboxReport

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
_ESCAPES = {10: "landlock is on, and yet a file could be read", 11: "seccomp is on, and yet a refused call worked"}

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


class IsolationUnavailable(OSError):
    """The isolation that was asked for can't be had on this machine."""


def build_isolation(plan: Plan, scratch: str) -> tuple[Isolation, SandboxReport]:
    """Return the strongest isolation that holds, of what the plan allows, and the report on it.

    Raises:
        IsolationUnavailable: `isolation` or a scratch directory asks for more than there is; the message says why.
    """
    failures: dict[tuple[bool, bool, bool], str] = {}
    for has in _steps(plan):
        isolation = Isolation(plan.limits, plan.readable, scratch, *has)
        failures[has] = _failure_of(isolation)
        if not failures[has]:
            return isolation, _report(isolation, failures)
    last = [*failures.values()][-1]
    if plan.isolation == "limits":
        raise IsolationUnavailable(f"no program can be run: {last}")
    raise IsolationUnavailable(
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


def _report(isolation: Isolation, failures: dict[tuple[bool, bool, bool], str]) -> SandboxReport:
    missing = []
    if not isolation.has_landlock and (reason := failures.get((True, isolation.has_seccomp, False))):
        missing.append(f"landlock ({reason}): {_LANDLOCK_ADVICE}")
    if not isolation.has_seccomp and (reason := failures.get((False, True, False))):
        missing.append(f"seccomp ({reason}): {_SECCOMP_ADVICE}")
    if isolation.has_seccomp and not isolation.has_thread_gate:
        missing.append(f"counted threads ({failures[isolation.has_landlock, True, True]}): {_THREADS_ADVICE}")
    return SandboxReport(
        has_landlock=isolation.has_landlock,
        has_seccomp=isolation.has_seccomp,
        has_thread_gate=isolation.has_thread_gate,
        landlock_abi=landlock.abi_version() if isolation.has_landlock else 0,
        missing=missing,
    )


def _failure_of(isolation: Isolation) -> str:
    """Prepare the isolation and run a program in it that tries to escape; return why it doesn't hold, or ''."""
    try:
        if isolation.limits.scratch_mb and isolation.has_landlock and landlock.abi_version() < landlock.SCRATCH_ABI:
            return f"landlock has ABI {landlock.abi_version()}, which can't keep a program from truncating any file"
        isolation.prepare()
    except OSError as error:
        return str(error)
    failure = _try_to_escape(isolation)
    if failure:
        isolation.close()
    return failure


def _try_to_escape(isolation: Isolation) -> str:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    helper = os.getpid()
    with ours, tempfile.TemporaryFile() as source, open(os.devnull, "wb") as output:
        source.write(_ESCAPE.format(has_landlock=isolation.has_landlock, has_seccomp=isolation.has_seccomp).encode())
        source.seek(0)
        with theirs:
            pid = os.fork()
            if pid == 0:
                child.run_child(theirs, isolation, helper)
        with contextlib.suppress(BrokenPipeError):  # it may have failed by now, which it has reported
            socket.send_fds(ours, [b"r"], [source.fileno(), output.fileno()])
        messages = []
        while message := _receive(ours):
            messages.append(message)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if child.READY not in messages:
        reported = messages[-1].removeprefix(child.FAILED).decode("utf-8", "replace") if messages else ""
        return reported or f"the child ended with code {code} while it was being isolated"
    return "" if code == 0 else _ESCAPES.get(code, f"the test program ended with code {code}")


def _receive(channel: socket.socket) -> bytes:
    try:
        message, descriptors, _, _ = socket.recv_fds(channel, 4096, 2)
    except ConnectionResetError:  # it has ended with the program unread; what it sent before can still be read
        message, descriptors, _, _ = socket.recv_fds(channel, 4096, 2)
    for descriptor in descriptors:
        os.close(descriptor)  # threads are refused from here on, which the program doesn't need
    return message
