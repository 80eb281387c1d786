"""Finds out which libraries programs can import, by importing each in a program isolated as a real call is."""

import contextlib
import dataclasses
import functools
import json
import os
import signal
import socket
import threading
from collections.abc import Sequence
from typing import Any

from .launch import HelperProcess, start_helper
from .plan import Plan
from .probe import SandboxUnavailable

USUAL = ("numpy", "sympy", "mpmath", "scipy", "pandas", "matplotlib", "networkx")
"""Libraries that programs of language models import, of which those that are there are named to the model."""

DESCRIPTION = "Run Python code in a fresh interpreter; prints and the value of the last expression are returned."

_START_SECONDS = 120.0
_IMPORT_SECONDS = 60
"""For all imports together: they may take longer than a call may, on a machine that is busy with a start."""
_SHOWN_CHARS = 300
_lock = threading.Lock()


def libraries_sentence(names: Sequence[str]) -> str:
    """Say which libraries there are, for a model."""
    if not names:
        return "It can import the standard library."
    return f"Beside the standard library it can import: {', '.join(names)}."


def import_errors(plan: Plan, names: Sequence[str]) -> dict[str, str]:
    """Import each library in a program of its own and return what went wrong by name, '' where it can be imported.

    The first call with the same arguments in a process takes about a second and blocks; others are answered at once.

    Args:
        plan: as of the helper whose programs are meant; its limits of time are raised.
        names: import names, with dots where a submodule is meant.

    Raises:
        SandboxUnavailable: no helper can be started or asked.
    """
    with _lock:  # or calls that fail at the same time would all ask
        return dict(_import_in_helper(plan.to_json(), tuple(names)))


@functools.lru_cache(maxsize=16)
def _import_in_helper(plan_text: str, names: tuple[str, ...]) -> dict[str, str]:
    plan = Plan.from_json(plan_text)
    limits = dataclasses.replace(plan.limits, timeout_seconds=_IMPORT_SECONDS, cpu_seconds=_IMPORT_SECONDS)
    try:
        helper = start_helper(dataclasses.replace(plan, limits=limits), None)
    except OSError as error:
        raise SandboxUnavailable(f"the interpreter could not start: {error}") from error
    try:
        helper.control.settimeout(_START_SECONDS)
        ready = _receive(helper)
        if "ready" not in ready:
            raise SandboxUnavailable(str(ready.get("failed") or f"the interpreter ended {helper.stderr_tail()}"))
        with contextlib.ExitStack() as files:
            return _import_each(helper, names, files)
    except OSError as error:
        raise SandboxUnavailable(f"the interpreter did not answer: {error}; {helper.stderr_tail()}") from error
    finally:
        helper.stop()


def _import_each(helper: HelperProcess, names: tuple[str, ...], files: contextlib.ExitStack) -> dict[str, str]:
    outputs = []
    for number, name in enumerate(names, start=1):
        source, output = (
            files.enter_context(os.fdopen(os.memfd_create("import", os.MFD_CLOEXEC), "w+b")) for _ in range(2)
        )
        source.write(f"import {name}".encode())
        source.seek(0)
        outputs.append(output)
        message = json.dumps({"run": number}).encode()
        socket.send_fds(helper.control, [message], [source.fileno(), output.fileno()])
    errors: dict[str, str] = {}
    while len(errors) < len(names):
        result = _receive(helper)
        number = result["ended"]
        outputs[number - 1].seek(0)
        errors[names[number - 1]] = _error(result, outputs[number - 1].read().decode("utf-8", "replace"))
    return {name: errors[name] for name in names}


def _error(result: dict[str, Any], output: str) -> str:
    if "failure" in result:
        return str(result["failure"])
    code = result["exit_code"]
    if code == 0:
        return ""
    lines = output.strip().splitlines() or [f"the import ended with code {code}"]
    if code in (-signal.SIGKILL, -signal.SIGXCPU):
        lines.append(f"it was stopped after {_IMPORT_SECONDS} s")
    return lines[-1][:_SHOWN_CHARS]


def _receive(helper: HelperProcess) -> dict[str, Any]:
    packet = helper.control.recv(1 << 16)
    if not packet:
        raise ConnectionError(os.strerror(104))
    message: dict[str, Any] = json.loads(packet)
    return message
