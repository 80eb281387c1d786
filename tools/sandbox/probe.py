"""Finds out how well this machine isolates programs, without an event loop: for constructors and `arpo-verl doctor`."""

import dataclasses
import json

from .launch import start_helper
from .plan import Plan, SandboxReport

_SECONDS = 60.0


class SandboxUnavailable(RuntimeError):
    """The isolation that was asked for can't be had on this machine."""


def probe(plan: Plan, bubblewrap: str | None = None) -> SandboxReport:
    """Start a helper that imports nothing, return what it reports, and stop it: about 0.1 s.

    Args:
        plan: see `launch.make_plan`.
        bubblewrap: the path of `bwrap`, to try it.

    Raises:
        SandboxUnavailable: it can't be started, or the plan asks for more than this machine allows.
    """
    plan = dataclasses.replace(plan, libraries=[], parent=0 if bubblewrap else plan.parent)
    try:
        helper = start_helper(plan, bubblewrap)
    except OSError as error:
        raise SandboxUnavailable(f"the interpreter could not start: {error}") from error
    try:
        helper.control.settimeout(_SECONDS)
        message = json.loads(helper.control.recv(1 << 16) or b"{}")
    except OSError as error:
        raise SandboxUnavailable(f"the interpreter did not answer: {error}; {helper.stderr_tail()}") from error
    finally:
        errors = helper.stderr_tail()
        helper.stop()
    if "ready" not in message:
        raise SandboxUnavailable(f"{message.get('failed', 'the interpreter ended')} {errors}".strip())
    return dataclasses.replace(SandboxReport(**message["ready"]), has_bubblewrap=bubblewrap is not None)
