"""Run model-written Python in a process of its own, with limits.

What is covered: an empty environment, a session of its own, an empty working directory that is deleted afterwards;
limits on CPU time, memory, file size, output and wall-clock time; the whole process group is killed and the child
reaped when the call ends, however it ends; output printed before an error or a time-out is kept; the last expression
is shown as in a notebook.

What is not covered: this is not a security sandbox. The network is reachable, files that the user may read can be
read, `/proc/<parent>/environ` among them, the number of processes and files is not limited, a process that leaves its
session escapes the kill, and root can raise its own limits.
"""

import asyncio
import contextlib
import math
import os
import shutil
import signal
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

from arpo_tools.tool import ToolResult, ToolStatus

# Runs in the child before any of the model's code. It reads the limits from its arguments and the code from its input:
# an argument is limited to 128 KB and can't hold a NUL byte.
_CHILD = """
import _ast, errno, resource, sys
cpu_seconds, memory_bytes, file_bytes = map(int, sys.argv[1:4])
for limit, value in (
    (resource.RLIMIT_AS, memory_bytes),
    (resource.RLIMIT_FSIZE, file_bytes),
    (resource.RLIMIT_CORE, 0),
):
    resource.setrlimit(limit, (value, value))
# Between the two limits the kernel sends SIGXCPU, by which the end can be told from another kill.
resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
sys.path += sys.argv[4:]
sys.argv = [""]
source = sys.stdin.buffer.read().decode("utf-8", "replace")
names = {"__name__": "__main__"}
try:
    body = compile(source, "<python>", "exec", _ast.PyCF_ONLY_AST).body
    last = _ast.Expression(body.pop().value) if body and isinstance(body[-1], _ast.Expr) else None
    exec(compile(_ast.Module(body, []), "<python>", "exec"), names)
    if last is not None:
        sys.displayhook(eval(compile(last, "<python>", "eval"), names))
except MemoryError:
    names.clear()  # or there would be no memory for the message
    print("MemoryError: the memory limit is %d MB" % (memory_bytes >> 20))
    sys.exit(101)
except Exception as error:
    import traceback
    print("".join(traceback.format_exception(type(error), error, error.__traceback__.tb_next)).rstrip())
    sys.exit(101 if isinstance(error, OSError) and error.errno == errno.EFBIG else 1)
"""
_LIMIT_EXIT = 101
"""What the child ends with after a limit; a program may end with the same code, and is then believed."""


_LARGEST_LIMIT = 1 << 40
"""In MB or seconds: below it, every limit fits the kernel's 64 bits."""


@dataclass(frozen=True)
class PythonInterpreter:
    """A `Tool` that runs each call in a fresh `python -I` process; nothing is kept from call to call."""

    name: str = "python"
    timeout_seconds: float = 5.0
    """Wall-clock limit of one call, start of the interpreter included."""
    cpu_seconds: int = 5
    """CPU time of one process, in whole seconds as `RLIMIT_CPU` counts it."""
    memory_mb: int = 1024
    """Address space of one process (`RLIMIT_AS`), in MB of 2**20 bytes."""
    file_mb: int = 16
    """Size of one written file (`RLIMIT_FSIZE`), in MB."""
    max_output_chars: int = 10_000
    """What the model sees at most; what is printed beyond is dropped, and the cut is marked."""

    def __post_init__(self) -> None:
        for limit in ("timeout_seconds", "cpu_seconds", "memory_mb", "file_mb", "max_output_chars"):
            value = getattr(self, limit)
            if not 0 < value < (math.inf if limit == "timeout_seconds" else _LARGEST_LIMIT):
                raise ValueError(f"python tool: {limit}={value}; expected a positive number: change it")
            if limit != "timeout_seconds" and not isinstance(value, int):
                raise ValueError(f"python tool: {limit}={value}; expected a whole number: change it")

    async def run(self, text: str) -> ToolResult:
        """Run `text` as a program and return what it printed. Never raises but for cancellation."""
        if not text.strip():
            return ToolResult("Error: no code was given.", ToolStatus.MODEL_ERROR)
        try:
            return await self._run(text.encode("utf-8", "replace"))
        except OSError as error:
            return ToolResult(f"Error: the interpreter could not start: {error}", ToolStatus.INFRASTRUCTURE_ERROR)

    async def _run(self, code: bytes) -> ToolResult:
        # Files instead of pipes: whoever still holds a pipe can't keep the call open, and RLIMIT_FSIZE caps the output.
        with (
            _working_directory() as folder,
            tempfile.TemporaryFile() as source,
            tempfile.TemporaryFile() as output,
        ):
            source.write(code)
            source.seek(0)
            # Not asyncio's own: Ray runs its actors on uvloop, which forks to start a process, and a fork of a process
            # with threads can wait for ever for a lock that one of them held. subprocess uses vfork.
            child = subprocess.Popen(
                # -S: reading every .pth file of the environment takes longer than a typical call.
                # -u: what was printed before a sudden end must not wait in a buffer.
                [
                    *(sys.executable, "-I", "-S", "-B", "-u", "-c", _CHILD),
                    *(str(self.cpu_seconds), str(self.memory_mb << 20), str(self.file_mb << 20)),
                    *site.getsitepackages(),
                ],
                stdin=source,
                stdout=output,
                stderr=output,
                cwd=folder,
                env={"OPENBLAS_NUM_THREADS": "1"},  # each BLAS thread would reserve address space against the limit
                start_new_session=True,
            )
            is_timeout = False
            try:
                await asyncio.wait_for(_end_of(child.pid), self.timeout_seconds)
            except asyncio.TimeoutError:
                is_timeout = True
            finally:
                _kill_group(child.pid)
                child.wait()
            output.seek(0)
            # A character has at most four bytes in UTF-8.
            return self._result(output.read(4 * self.max_output_chars + 4), child.returncode, is_timeout)

    def _result(self, output: bytes, exit_code: int | None, is_timeout: bool) -> ToolResult:
        text = output.decode("utf-8", "replace").rstrip()
        is_cut = len(text) > self.max_output_chars
        if is_cut:
            text = text[: self.max_output_chars] + "\n...(output cut)"
        if is_timeout:
            note = f"TimeoutError: the call took longer than {self.timeout_seconds:g} s"
            return ToolResult(f"{text}\n{note}".lstrip(), ToolStatus.TIMEOUT)
        if exit_code == -signal.SIGXCPU:
            return ToolResult(f"{text}\nError: the CPU limit is {self.cpu_seconds} s".lstrip(), ToolStatus.LIMIT)
        if is_cut or exit_code == _LIMIT_EXIT:
            return ToolResult(text, ToolStatus.LIMIT)
        if exit_code != 0:
            return ToolResult(text or f"Error: the process ended with code {exit_code}", ToolStatus.MODEL_ERROR)
        return ToolResult(text, ToolStatus.OK) if text else ToolResult("(no output)", ToolStatus.EMPTY)


@contextlib.contextmanager
def _working_directory() -> Iterator[str]:
    """Make a directory and delete it, whatever the program has made of it."""
    folder = tempfile.mkdtemp(prefix="arpo-python-")
    try:
        yield folder
    finally:
        try:
            shutil.rmtree(folder)
        except (OSError, RecursionError):  # replaced by a file or a link, or nested deeper than Python recurses
            subprocess.run(["rm", "-rf", folder], check=False)


async def _end_of(pid: int) -> None:
    """Wait until a process has ended, without reaping it and without a thread."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    descriptor = os.pidfd_open(pid)
    loop.add_reader(descriptor, lambda: ended.done() or ended.set_result(None))
    try:
        await ended
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
