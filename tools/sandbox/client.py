"""The tool's side of a helper: one object for each event loop that starts it, hands it calls and closes it."""

import asyncio
import contextlib
import dataclasses
import errno
import functools
import json
import logging
import os
import shutil
import socket
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from .launch import STOP_SECONDS, HelperProcess, start_helper
from .output import Output
from .plan import Plan, SandboxReport

logger = logging.getLogger(__name__)

_START_SECONDS = 120.0
"""Limit of the helper's start, imports included, on a busy machine."""
_GRACE_SECONDS = 30.0
"""Time after a call's wall-clock limit in which the helper must answer, or it counts as stuck."""
_PACKET_BYTES = 1 << 16


class HelperError(Exception):
    """The helper can't be started, has died, or is stuck: the program that was to run is not to blame."""


class HelperGone(HelperError):
    """The helper had died before the program was handed to it: another one can run it."""


@dataclass(frozen=True)
class ExecutionResult:
    """The exit status, output and CPU time of a program, as the kernel reports them."""

    output: bytes
    is_cut: bool
    """It printed more than was asked for, and was killed."""
    exit_code: int
    """Negative: the signal that killed it."""
    cpu_seconds: float
    is_timeout: bool


class HelperClient:
    """A running helper. Everything must be called from the thread of the loop it was started in."""

    def __init__(self, helper: HelperProcess, plan: Plan, max_children: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._owner = os.getpid()
        self._helper = helper
        self._plan = plan
        self._slots = asyncio.Semaphore(max_children)
        self._last_identifier = 0
        self._results: dict[int, asyncio.Future[dict[str, Any]]] = {0: self._loop.create_future()}
        """By identifier; 0 is the start."""
        self._failure = ""
        self._is_retired = False
        self._guard = _close_with_loop(self)
        # Room for the messages of all children, so that sending never waits.
        helper.control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        helper.control.setblocking(False)
        self._loop.add_reader(helper.control, self._receive)

    @classmethod
    async def start(cls, plan: Plan, bubblewrap: str | None, max_children: int) -> tuple["HelperClient", SandboxReport]:
        """Start a helper and wait until it serves.

        Raises:
            HelperError: it can't be started, or the plan asks for isolation that can't be had.
        """
        try:
            helper = start_helper(plan, bubblewrap)
        except OSError as error:
            raise HelperError(f"the interpreter could not start: {error}") from error
        client = cls(helper, plan, max_children)
        try:
            message = await asyncio.wait_for(client._results[0], _START_SECONDS)
            if "failed" in message:
                raise HelperError(message["failed"])
            await anext(client._guard)
        except asyncio.TimeoutError as error:
            client.close()
            raise HelperError(f"the interpreter did not start within {_START_SECONDS:g} s") from error
        except BaseException:
            client.close()
            raise
        return client, SandboxReport(**message["ready"])

    @property
    def is_usable(self) -> bool:
        """Whether calls can be made: the helper is running, and is this process's own."""
        if self._failure or self._is_retired or self._owner != os.getpid():
            return False
        # It is killed, for instance, with the thread that started it, without the loop having run since.
        return self._helper.process.poll() is None

    async def run(self, source: bytes, max_output_bytes: int) -> ExecutionResult:
        """Run a program. Cancellation kills it.

        Raises:
            HelperError: the helper died, is stuck, or couldn't isolate the program.
            HelperGone: it had died before.
        """
        async with self._slots:
            if not self.is_usable:
                raise HelperGone(self._failure or "the interpreter is being replaced")
            self._last_identifier += 1
            identifier = self._last_identifier
            output = Output(max_output_bytes, lambda: self._send({"kill": identifier}))
            try:
                with _file_of(source) as file:
                    self._results[identifier] = self._loop.create_future()
                    self._send({"run": identifier}, [file.fileno(), output.write_end])
                output.close_write_end()
                message = await self._result_message(identifier)
                if "failure" in message:
                    self._is_retired = True  # what keeps one child from being isolated would keep others too
                    raise HelperError(message["failure"])
                return ExecutionResult(
                    output=output.finish(),
                    is_cut=output.is_cut,
                    exit_code=message["exit_code"],
                    cpu_seconds=message["cpu_seconds"],
                    is_timeout=message["is_timeout"],
                )
            finally:
                self._results.pop(identifier, None)
                output.close()
                if self._is_retired and len(self._results) == 1:  # all but the start's
                    self.close()

    async def _result_message(self, identifier: int) -> dict[str, Any]:
        seconds = self._plan.limits.timeout_seconds + _GRACE_SECONDS
        try:
            return await asyncio.wait_for(self._results[identifier], seconds)
        except asyncio.TimeoutError:
            self._fail(f"the interpreter did not answer for {seconds:g} s")
            raise HelperError(self._failure) from None
        except asyncio.CancelledError:
            self._send({"kill": identifier})
            raise

    def close(self) -> None:
        """Stop the helper and whatever it runs; calls in flight fail. May be called again."""
        self._fail("the interpreter was closed", STOP_SECONDS)

    def _receive(self) -> None:
        while not self._failure:
            try:
                packet = self._helper.control.recv(_PACKET_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                self._fail(f"nothing can be received from the interpreter: {error}")
                return
            if not packet:
                self._fail(f"the interpreter's helper process has ended {self._helper.stderr_tail()}".strip())
                return
            message = json.loads(packet)
            result = self._results.get(message.get("ended", 0))
            if result is not None and not result.done():  # else it was cancelled
                result.set_result(message)

    def _send(self, message: dict[str, Any], descriptors: list[int] | None = None) -> None:
        if self._failure:
            return
        try:
            socket.send_fds(self._helper.control, [json.dumps(message).encode()], descriptors or [])
        except OSError as error:  # BlockingIOError too: there is room for more than it can have missed
            if error.errno == errno.ETOOMANYREFS:
                raise HelperError(
                    f"this user sends too many open files at a time ({error}): raise `ulimit -n`"
                ) from error
            self._fail(f"nothing can be sent to the interpreter: {error}")

    def _fail(self, reason: str, grace_seconds: float = 0.0) -> None:
        """Stop using this helper for good; one that is stuck must not block the loop while it ends."""
        if self._failure:
            return
        self._failure = reason
        if self._owner != os.getpid():  # a fork of the owner holds copies only
            self._helper.control.close()
            return
        if not self._loop.is_closed():
            self._loop.remove_reader(self._helper.control)
            for result in self._results.values():
                if not result.done():
                    result.set_exception(HelperError(reason))
        self._helper.stop(grace_seconds)


async def _close_with_loop(client: HelperClient) -> AsyncGenerator[None, None]:
    """Close the client when the loop closes its asynchronous generators, as `asyncio.run` does at its end."""
    try:
        yield
    finally:
        client.close()


@contextlib.contextmanager
def _file_of(content: bytes) -> Iterator[BinaryIO]:
    with os.fdopen(os.memfd_create("program", os.MFD_CLOEXEC), "w+b") as file:
        file.write(content)
        file.seek(0)
        yield file


async def start_best(plan: Plan, max_children: int) -> tuple[HelperClient, SandboxReport]:
    """Start a helper in the strongest isolation that the plan allows and the machine has, and log once what is missing.

    Raises:
        HelperError: see `HelperClient.start`.
    """
    if plan.isolation == "limits":
        return await HelperClient.start(plan, None, max_children)
    client, report = await _start_in_bubblewrap(plan, max_children)
    is_whole = report.has_landlock and report.has_seccomp and not report.unreadable
    _log_once(is_whole, report.level, tuple(report.missing))
    return client, report


async def _start_in_bubblewrap(plan: Plan, max_children: int) -> tuple[HelperClient, SandboxReport]:
    """Start a helper inside bubblewrap, or without it where that doesn't work."""
    bubblewrap = shutil.which("bwrap")
    failure = "there is no `bwrap` on the path"
    if bubblewrap is not None:
        try:
            client, report = await HelperClient.start(dataclasses.replace(plan, parent=0), bubblewrap, max_children)
            return client, dataclasses.replace(report, has_bubblewrap=True)
        except HelperError as error:
            failure = str(error)
    client, report = await HelperClient.start(plan, None, max_children)
    advice = "an extra layer, which most containers forbid; to have it, install bubblewrap and allow namespaces"
    return client, dataclasses.replace(report, missing=[*report.missing, f"bubblewrap ({failure}): {advice}"])


@functools.cache
def _log_once(is_whole: bool, level: str, missing: tuple[str, ...]) -> None:
    log = logger.info if is_whole else logger.warning
    log("model-written Python runs behind %s; missing: %s", level, "; ".join(missing) or "nothing")
