"""Finds out which walls this machine allows, without an event loop: for a constructor and for `arpo-verl doctor`."""

import dataclasses
import json

from .launch import start_helper
from .plan import Plan, SandboxReport

_SECONDS = 60.0


class SandboxUnavailable(RuntimeError):
    """The walls that were asked for can't be had on this machine."""


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
        raise SandboxUnavailable(f"the interpreter did not answer: {error}; {helper.last_words()}") from error
    finally:
        words = helper.last_words()
        helper.stop()
    if "ready" not in message:
        raise SandboxUnavailable(f"{message.get('failed', 'the interpreter ended')} {words}".strip())
    return dataclasses.replace(SandboxReport(**message["ready"]), has_bubblewrap=bubblewrap is not None)
