"""Run model-written Python in an isolated process, forked from a warm one.

What is covered: a program starts in a few milliseconds with NumPy and SymPy imported, knows nothing of other calls and
leaves nothing behind. By default it has no network, no environment, no file but Python's own, nothing it can write, no
other process (so no `subprocess` and no `multiprocessing`), and limits on CPU time, memory, output, threads and
wall-clock time, whoever runs it, root or not. What was printed before an error or a time-out is kept; the value of the
last expression is shown as in a notebook.

What is not covered: faults of the kernel, and what one program can find out about the machine by measuring time, or by
asking whether a path exists. Nothing is kept from call to call: sessions that keep variables are not offered. Where a
layer of isolation can't be had the next weaker level is taken with a warning, unless `isolation` is `strict`.

What calls share: they are forks of one process, so that addresses of memory and the hash seed of texts are the same in
all of them. The seed is 0, in every helper and run: a set of texts has one order. It can't be changed in a fork, as
every text that exists has its hash; `fresh_interpreter` starts a new Python for each call instead. Generators of random
numbers are seeded anew in each call. Beyond that they see the same machine: its clocks, load and process numbers, the
access times of Python's files, and with `scratch_mb` each other's locks on them.

Who runs programs: the user of this process, without privileges. Root is one who can't open other users' private
folders, so where Python or its libraries lie in one, its owner runs them; that needs root's privilege to become another
user. Where several users' private folders would have to be read, libraries are missing, and the report and a warning
name them. No other user can be chosen: for that, run a server and use `RemotePython`.
"""

import asyncio
import dataclasses
import functools
import logging
import math
import signal
import sys
import weakref
from dataclasses import dataclass, field
from typing import Any

from arpo_tools.loop_local import LoopLocal
from arpo_tools.sandbox.client import ExecutionResult, HelperClient, HelperError, HelperGone, start_best
from arpo_tools.sandbox.launch import PRELOADED, make_plan
from arpo_tools.sandbox.libraries import DESCRIPTION, USUAL, import_errors, libraries_sentence
from arpo_tools.sandbox.limits import ProgramLimits
from arpo_tools.sandbox.plan import Plan, SandboxReport
from arpo_tools.sandbox.probe import SandboxUnavailable, probe
from arpo_tools.sandbox.program import IMPORT_EXIT, LIMIT_EXIT
from arpo_tools.tool import ToolResult, ToolStatus

logger = logging.getLogger(__name__)

_LARGEST_LIMIT = 1 << 40
"""In MB or seconds: below it, every limit fits the kernel's 64 bits."""
_MOST_CHILDREN = 256
"""Children of one helper: their messages fit the buffer of a socket at the same time."""
_MOST_HELPERS = 3
"""Helpers that one call is offered to."""
_ISOLATIONS = ("auto", "strict", "limits")


@dataclass(frozen=True)
class PythonInterpreter:
    """A `Tool` that runs each call in a fresh process; nothing is kept from call to call.

    The first call on an event loop starts a helper process there, which takes about half a second; `start` does it
    beforehand. The helper ends with `close`, with the loop (`asyncio.run`), with this object, or with this process.
    """

    name: str = "python"
    timeout_seconds: float = 5.0
    """Wall-clock limit of one call, from the moment that its process exists."""
    cpu_seconds: int = 5
    """CPU time of one call, all threads together, in whole seconds as `RLIMIT_CPU` counts it."""
    memory_mb: int = 1024
    """Address space of one call (`RLIMIT_AS`), in MB of 2**20 bytes; Python with NumPy and SymPy takes some 150."""
    file_mb: int = 16
    """Size of one written file (`RLIMIT_FSIZE`), in MB; nothing can be written unless there is a scratch directory."""
    max_output_chars: int = 10_000
    """Characters that the model sees at most; a program that prints much more is stopped, and a cut is marked."""
    scratch_mb: int = 0
    """Size of the directory that a program starts in and may write to, in MB of memory; 0: it is empty and read-only.

    It is a file system of the call's own and vanishes with it. It needs user namespaces, and landlock of ABI 3.
    """
    isolation: str = "auto"
    """`auto`: the strongest isolation that this machine allows; `strict`: landlock and seccomp, or the constructor
    raises; `limits`: resource limits only, for programs that are trusted."""
    max_children: int = 32
    """Calls that run at a time; more wait for their turn, which doesn't count against their wall-clock limit. Together
    they may take `max_children` times `memory_mb`; when memory runs out, the kernel ends them before anything else."""
    libraries: tuple[str, ...] | None = None
    """Import names of what programs are promised beside the standard library, such as `scipy` or `matplotlib.pyplot`.

    They are imported before programs start, by the helper with this user's rights; the constructor raises if one can't
    be imported. None: NumPy and SymPy are, and
    of `arpo_tools.sandbox.libraries.USUAL` those that can be imported are promised. All else that is installed beside
    this Python can be imported too; a list is a promise and no restriction.
    """
    fresh_interpreter: bool = False
    """Start a new Python for each call, with a hash seed and addresses of its own: 0.5 s of processor time a call."""
    _starting: dict[asyncio.AbstractEventLoop, "asyncio.Task[tuple[HelperClient, SandboxReport]]"] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _fresh_slots: LoopLocal[asyncio.Semaphore] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the limits, with `isolation="strict"` that it can be had, and the libraries if there is a list.

        Raises:
            ValueError: a limit or `isolation` has no valid value, or a library can't be imported.
            SandboxUnavailable: what `strict` asks for can't be had; the message says why and what to do.
        """
        for limit in dataclasses.fields(self):
            if isinstance(limit.default, int | float) and not isinstance(limit.default, bool):
                _check_limit(limit.name, getattr(self, limit.name))
        if self.max_children > _MOST_CHILDREN:
            raise ValueError(
                f"python tool: max_children={self.max_children}; expected at most {_MOST_CHILDREN}: lower it"
            )
        if self.isolation not in _ISOLATIONS:
            raise ValueError(f"python tool: isolation={self.isolation!r}; expected one of {_ISOLATIONS}: change it")
        if not isinstance(self.fresh_interpreter, bool):
            raise ValueError(
                f"python tool: fresh_interpreter={self.fresh_interpreter!r}; expected true or false: change it"
            )
        if self.isolation == "strict":
            probe(self._plan())
        if self.libraries is not None:
            object.__setattr__(self, "libraries", _checked_names(self.libraries))
            self._check_libraries()
        slots = functools.partial(asyncio.Semaphore, self.max_children)
        object.__setattr__(self, "_fresh_slots", LoopLocal(slots))
        weakref.finalize(self, _close_all, self._starting)

    async def run(self, text: str) -> ToolResult:
        """Run `text` as a program and return what it printed. Never raises but for cancellation, which kills it."""
        if not text.strip():
            return ToolResult("Error: no code was given.", ToolStatus.MODEL_ERROR)
        try:
            executed = await self._execute(text.encode("utf-8", "replace"))
            note = await asyncio.to_thread(self._import_note) if executed.exit_code == IMPORT_EXIT else ""
            return self._result(executed, note)
        except (HelperError, OSError) as error:
            return ToolResult(f"Error: {error}", ToolStatus.INFRASTRUCTURE_ERROR)

    @property
    def description(self) -> str:
        """The description of the tool for a model, with the available libraries; the first time it takes a second."""
        return f"{DESCRIPTION} {libraries_sentence(self.known_libraries())}"

    def known_libraries(self) -> list[str]:
        """Return what programs are promised beside the standard library; the first time it takes a second.

        Raises:
            SandboxUnavailable: no program can be run.
        """
        if self.libraries is not None:
            return list(self.libraries)
        return [name for name, error in import_errors(self._plan(), USUAL).items() if not error]

    def _import_note(self) -> str:
        try:
            return libraries_sentence(self.known_libraries())
        except SandboxUnavailable as error:
            logger.warning("which libraries there are can't be told: %s", error)
            return ""

    def _check_libraries(self) -> None:
        errors = import_errors(self._plan(), self.libraries) if self.libraries else {}
        for name, error in errors.items():
            if error:
                raise ValueError(
                    f"python tool: libraries has {name!r}, which programs can't import here ({error}); expected what "
                    f"is installed beside {sys.executable}: install it, or take it from the list"
                )

    async def _execute(self, source: bytes) -> ExecutionResult:
        """Run a program; a helper that ends before the program begins is replaced."""
        # A character has at most four bytes in UTF-8.
        max_output_bytes = 4 * self.max_output_chars + 4
        if self.fresh_interpreter:
            async with await self._fresh_slots.get():
                client, _report = await start_best(dataclasses.replace(self._plan(), hash_seed="random"), 1)
                try:
                    return await client.run(source, max_output_bytes)
                finally:
                    client.close()
        failure = HelperGone("no helper was asked")
        for _ in range(_MOST_HELPERS):
            client, _report = await self._helper()
            try:
                return await client.run(source, max_output_bytes)
            except HelperGone as error:
                failure = error
        raise failure

    async def start(self) -> SandboxReport:
        """Start the helper on the running loop unless there is one, and return how well programs are isolated.

        Raises:
            HelperError: it can't be started.
        """
        _, report = await self._helper()
        return report

    def close(self) -> None:
        """Stop the helper of every loop. Calls in flight are infrastructure failures; a later call starts a new one."""
        _close_all(self._starting)

    def _plan(self) -> Plan:
        limits = ProgramLimits(self.timeout_seconds, self.cpu_seconds, self.memory_mb, self.file_mb, self.scratch_mb)
        return make_plan(limits, self.isolation, PRELOADED if self.libraries is None else self.libraries)

    async def _helper(self) -> tuple[HelperClient, SandboxReport]:
        """Return the helper of the running loop; start one if there is none that can be used."""
        loop = asyncio.get_running_loop()
        starting = self._starting.get(loop)
        if starting is None or (starting.done() and not _is_usable(starting)):
            for other in [other for other in self._starting if other.is_closed()]:
                _close(other, self._starting.pop(other))
            starting = self._starting[loop] = loop.create_task(start_best(self._plan(), self.max_children))
        try:
            return await asyncio.shield(starting)  # others may be waiting for the same start
        except asyncio.CancelledError:
            if starting.cancelled():  # by `close`, and not the call that waits
                raise HelperError("the interpreter was closed while it started") from None
            raise

    def _result(self, executed: ExecutionResult, note: str = "") -> ToolResult:
        text = executed.output.decode("utf-8", "replace").rstrip()
        is_cut = executed.is_cut or len(text) > self.max_output_chars
        if is_cut:
            text = text[: self.max_output_chars] + "\n...(output cut)"
        if executed.is_timeout:
            note = f"TimeoutError: the call took longer than {self.timeout_seconds:g} s"
            return ToolResult(f"{text}\n{note}".lstrip(), ToolStatus.TIMEOUT)
        # A program that ignores SIGXCPU is killed a second later.
        is_killed = executed.exit_code == -signal.SIGKILL and executed.cpu_seconds >= self.cpu_seconds
        if executed.exit_code == -signal.SIGXCPU or is_killed:
            return ToolResult(f"{text}\nError: the CPU limit is {self.cpu_seconds} s".lstrip(), ToolStatus.LIMIT)
        if is_cut or executed.exit_code == LIMIT_EXIT:
            return ToolResult(text, ToolStatus.LIMIT)
        if executed.exit_code != 0:
            message = text or f"Error: the process ended with code {executed.exit_code}"
            return ToolResult(f"{message}\n{note}".rstrip(), ToolStatus.MODEL_ERROR)
        return ToolResult(text, ToolStatus.OK) if text else ToolResult("(no output)", ToolStatus.EMPTY)


def _checked_names(names: Any) -> tuple[str, ...]:
    """
    Raises:
        ValueError: one is not an import name.
    """
    found = (names,) if isinstance(names, str) else tuple(names)
    for name in found:
        if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"python tool: libraries has {name!r}; expected import names, such as numpy: correct it")
    return found


def _check_limit(name: str, value: float) -> None:
    least = 0 if name == "scratch_mb" else 1e-9
    if not least <= value < (math.inf if name == "timeout_seconds" else _LARGEST_LIMIT):
        raise ValueError(f"python tool: {name}={value}; expected a positive number: change it")
    if name != "timeout_seconds" and not isinstance(value, int):
        raise ValueError(f"python tool: {name}={value}; expected a whole number: change it")


def _is_usable(starting: "asyncio.Task[tuple[HelperClient, SandboxReport]]") -> bool:
    if starting.cancelled() or starting.exception() is not None:
        return False
    return starting.result()[0].is_usable


def _close_all(starting: dict[asyncio.AbstractEventLoop, "asyncio.Task[Any]"]) -> None:
    while starting:
        _close(*starting.popitem())


def _close(loop: asyncio.AbstractEventLoop, starting: "asyncio.Task[Any]") -> None:
    """Close a helper, in the thread of its loop where that still runs."""
    if not starting.done():
        if not loop.is_closed():
            loop.call_soon_threadsafe(starting.cancel)
    elif not starting.cancelled() and starting.exception() is None:
        client = starting.result()[0]
        if loop.is_running() and not _is_running_here(loop):
            loop.call_soon_threadsafe(client.close)
        else:
            client.close()


def _is_running_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
