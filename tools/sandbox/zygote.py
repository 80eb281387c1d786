"""The helper: a Python with everything imported that forks a child for every call and watches all of them.

It is one thread and one loop. It never holds a program or an output, which travel between the tool and the child
through descriptors that it passes on: a child is a copy of the helper, and would find there what other calls have left.

Messages, each one packet of the control socket, JSON but for the descriptors:
    tool -> helper  {"run": id} with the program's file and the output's pipe; {"kill": id}
    helper -> tool  {"ready": report}; {"ended": id, "exit_code", "cpu_seconds", "is_timeout", "failure"}
"""

import contextlib
import dataclasses
import json
import math
import os
import resource
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from . import kernel, limits
from .build_isolation import build_isolation
from .child import FAILED, GATE, MOST_HELPER_FILES, READY, run_child
from .isolation import Isolation
from .plan import Plan
from .preload import preload
from .program_user import become_program_user
from .scratch import make_scratch
from .thread_gate import ThreadGate

_PACKET_BYTES = 1 << 16
_MOST_GENERATIONS = 1000
"""Generations of processes that are killed, where they fork meanwhile."""
_LEAST_FREE_MB = 32
"""Address space that a program needs at the very least, beside what the helper takes."""


@dataclass
class _Child:
    """A child from its fork until it is reaped: at first a spare one, then the one of a call."""

    pid: int
    channel: socket.socket | None
    call: int = 0
    """The tool's number of the call; 0: spare."""
    deadline: float = math.inf
    gate: ThreadGate | None = None
    is_timeout: bool = False
    is_ready: bool = False
    failure: str = "the child ended before it was isolated"


class _Closed(Exception):
    """The tool has closed its end."""


class Zygote:
    """Serves the calls that come in on a socket until it is closed."""

    def __init__(self, control: socket.socket, isolation: Isolation) -> None:
        self._control = control
        self._isolation = isolation
        self._pid = os.getpid()
        self._children: dict[int, _Child] = {}
        """By process id."""
        self._spare: _Child | None = None
        self._may_have_spare = True
        self._selector = selectors.DefaultSelector()
        self._wake, wake_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler, or nothing would be written
        self._watch(control, self._receive_request)
        self._watch(self._wake, self._reap)

    def serve(self) -> None:
        """Serve until the tool closes its end; then leave no child behind."""
        try:
            while True:
                self._serve_once()
        except (_Closed, BrokenPipeError, ConnectionResetError):
            pass
        finally:
            for child in self._children.values():
                _kill(child.pid)
            self._kill_orphans()
            for pid in self._children:
                os.waitpid(pid, 0)

    def _serve_once(self) -> None:
        wants_spare = self._spare is None and self._may_have_spare
        events = self._selector.select(0 if wants_spare else self._seconds_to_deadline())
        for key, _ in events:
            # One handler may have closed what another one was to read.
            if self._selector.get_map().get(key.fd) is key:
                key.data()
        self._kill_overdue()
        if wants_spare and not events:  # the next call need not wait for its fork
            with contextlib.suppress(OSError):
                self._spare = self._fork()
            self._may_have_spare = self._spare is not None

    def _watch(self, file: int | socket.socket, handler: Callable[[], None]) -> None:
        self._selector.register(file, selectors.EVENT_READ, handler)

    def _seconds_to_deadline(self) -> float | None:
        nearest = min((child.deadline for child in self._children.values() if not child.is_timeout), default=math.inf)
        return None if nearest == math.inf else max(0.0, nearest - time.monotonic())

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        for child in self._children.values():
            if child.deadline <= now and not child.is_timeout:
                child.is_timeout = True
                _kill(child.pid)

    def _receive_request(self) -> None:
        packet, descriptors, _, _ = socket.recv_fds(self._control, _PACKET_BYTES, 2)
        if not packet:
            raise _Closed
        message = json.loads(packet)
        if "run" in message:
            try:
                self._start(message["run"], descriptors)
            except OSError as error:
                _send(
                    self._control, {"ended": message["run"], "failure": f"the helper could not start a child: {error}"}
                )
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
        for child in self._children.values():
            if child.call and child.call == message.get("kill"):
                _kill(child.pid)

    def _start(self, call: int, descriptors: list[int]) -> None:
        """Hand a program to the spare child, or to a new one."""
        child, self._spare = self._spare, None
        for candidate in (child, None):
            chosen = candidate or self._fork()
            if chosen.channel is None:
                continue  # it has ended, which has not been noticed yet
            try:
                socket.send_fds(chosen.channel, [b"r"], descriptors)
            except OSError as error:
                _kill(chosen.pid)
                if candidate is None or not isinstance(error, ConnectionError):
                    raise
                continue
            chosen.call = call
            chosen.deadline = time.monotonic() + self._isolation.limits.timeout_seconds
            return

    def _fork(self) -> _Child:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                pid = os.fork()
            except OSError:
                ours.close()
                raise
            if pid == 0:
                run_child(theirs, self._isolation, self._pid)
        child = self._children[pid] = _Child(pid, ours)
        self._watch(ours, lambda: self._receive_from(child))
        return child

    def _receive_from(self, child: _Child) -> None:
        """Receive what a child reports while it is being isolated."""
        channel = child.channel
        if channel is None:
            return
        try:
            message, descriptors, _, _ = socket.recv_fds(channel, _PACKET_BYTES, 2)
        except ConnectionResetError:  # it has ended with the program unread; what it sent before comes next
            return
        if message == GATE and len(descriptors) == 2:
            gate = child.gate = ThreadGate(*descriptors)
            self._watch(gate.listener, lambda: self._guard(child, gate))
        elif message == READY:
            child.is_ready = self._may_have_spare = True
        elif message.startswith(FAILED):
            child.failure = message.removeprefix(FAILED).decode("utf-8", "replace")
        else:
            self._selector.unregister(channel)
            channel.close()
            child.channel = None

    def _guard(self, child: _Child, gate: ThreadGate) -> None:
        if not gate.answer():
            self._close_gate(child)

    def _close_gate(self, child: _Child) -> None:
        if child.gate is not None:
            self._selector.unregister(child.gate.listener)
            child.gate.close()
            child.gate = None

    def _reap(self) -> None:
        """Take every child that has ended, and tell the tool."""
        os.read(self._wake, 4096)
        while (pid := _ended_child()) is not None:
            if not self._isolation.has_seccomp:
                _kill_group(pid)  # not yet reaped, so the number of the group can't be another's
            _, status, usage = os.wait4(pid, 0)
            self._kill_orphans()
            if (child := self._children.pop(pid, None)) is not None:  # else an orphan that came to us
                self._end(child, status, usage.ru_utime + usage.ru_stime)

    def _end(self, child: _Child, status: int, cpu_seconds: float) -> None:
        while child.channel is not None:
            self._receive_from(child)  # its last messages may be unread
        self._close_gate(child)
        if not child.call:
            self._spare = None
            self._may_have_spare = False  # what has killed this one would kill the next: not before a call has worked
            return
        result: dict[str, object] = {
            "ended": child.call,
            "exit_code": os.waitstatus_to_exitcode(status),
            "cpu_seconds": cpu_seconds,
            "is_timeout": child.is_timeout,
        }
        _send(self._control, result if child.is_ready or child.is_timeout else result | {"failure": child.failure})

    def _kill_orphans(self) -> None:
        """Kill what children have left behind, which the kernel has made ours; only without seccomp is there any."""
        for _ in range(_MOST_GENERATIONS if not self._isolation.has_seccomp else 0):
            orphans = set(_children_of_this_process()) - set(self._children)
            if not orphans:
                return
            for pid in orphans:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)  # which makes its own children ours, and visible


def _children_of_this_process() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def _kill(pid: int) -> None:
    """Kill a child that has not been reaped, and its group, which it makes a moment after its fork."""
    os.kill(pid, signal.SIGKILL)
    _kill_group(pid)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _ended_child() -> int | None:
    """Return a child that has ended, without reaping it."""
    try:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return ended.si_pid if ended is not None else None


def main() -> None:
    """Start on the control socket and with the plan that the command line names."""
    control = socket.socket(fileno=int(sys.argv[1]))
    plan = Plan.from_json(sys.argv[2])
    try:
        unreadable = _become_helper(plan)
        scratch = make_scratch()
    except OSError as error:
        _send(control, {"failed": str(error)})
        os._exit(1)
    try:
        os.chdir(scratch)
        preloaded = preload(plan.library_folders, plan.libraries)
        _check_memory(plan.limits.memory_mb)
        isolation, report = build_isolation(plan, scratch)
        report = dataclasses.replace(
            report, missing=report.missing + _advice_on(unreadable), unreadable=unreadable, preloaded=preloaded
        )
        os.chmod(scratch, 0o555)
        _send(control, {"ready": dataclasses.asdict(report)})
        Zygote(control, isolation).serve()
    except (OSError, MemoryError) as error:
        _send(control, {"failed": str(error)})
    finally:
        os.rmdir(scratch)
    os._exit(0)  # the orderly shut-down of a Python with SymPy takes longer than a call


def _become_helper(plan: Plan) -> list[str]:
    """Give up the privileges and settings that the helper doesn't need; return what it can't read afterwards.

    Raises:
        OSError: the owner has ended, or no user can read Python.
    """
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # when memory runs out, a program of the model must end, not the training
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:  # these two Python ignores itself
        if signal.getsignal(number) == signal.SIG_IGN:  # the tool's owner may ignore what programs rely on
            signal.signal(number, signal.SIG_DFL)
    unreadable = become_program_user(plan)
    if plan.parent:
        limits.die_with(plan.parent)  # after a change of user, which would take it back
    if not plan.limits.scratch_mb:  # a child that mounts needs them, and drops them afterwards
        limits.drop_privileges()
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    most_files = min(MOST_HELPER_FILES, most_files)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    kernel.prctl(kernel.PR_SET_NAME, b"arpo-python")
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    return unreadable


def _advice_on(unreadable: list[str]) -> list[str]:
    if not unreadable:
        return []
    return [
        f"libraries (user {os.geteuid()} without privileges can't read {', '.join(unreadable)}): programs do without "
        f"them; to change that, let all users read them (chmod o+rX, on the folders above too), or have one user own "
        f"Python and all libraries"
    ]


def _check_memory(memory_mb: int) -> None:
    """
    Raises:
        MemoryError: a program would have next to nothing beside what is imported.
    """
    with open("/proc/self/statm") as file:
        taken_mb = int(file.read().split()[0]) * resource.getpagesize() >> 20
    if memory_mb < taken_mb + _LEAST_FREE_MB:
        raise MemoryError(
            f"memory_mb={memory_mb}, of which Python and the imported libraries take {taken_mb}; expected at least "
            f"{_LEAST_FREE_MB} more than that: raise it"
        )


def _send(control: socket.socket, message: dict[str, object]) -> None:
    control.send(json.dumps(message).encode())
