"""`python -m arpo_verl.doctor.lane NAME`: runs some of the checks in a process that can be killed.

It reads a `Subject` from standard input and writes the names of its checks and then the findings of each to standard
output, one JSON value a line, in the order of the checks. A check that takes too long is left behind in its thread; the
process ends without waiting for it.
"""

import contextlib
import importlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable

from omegaconf.errors import OmegaConfBaseException

from arpo_verl.doctor.finding import Check, Finding, Stage, Status, Subject, line_of

AHEAD = {"light": "arpo_verl.doctor.light", "verl": "torch"}
"""What a lane imports before it reads its subject, whose configuration takes a second to compose."""


class Attempt:
    """A check under way in a thread of its own."""

    def __init__(self, check: Check) -> None:
        self._check = check
        self._findings: list[Finding] | None = None
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._findings = self._check.run()
        except Exception as error:
            # Where the doctor meets the world: whatever a machine makes a library raise is a line of the report.
            self._findings = [Finding(self._check.name, Status.FAILED, _in_words(error))]

    def findings(self, limit_seconds: float) -> list[Finding]:
        """Wait for the check's end until it has had `limit_seconds`."""
        self._thread.join(max(0.0, self._started + limit_seconds - time.monotonic()))
        if self._findings is not None:
            return self._findings
        text = (
            f"not done within {limit_seconds:g} s and cut off; expected an answer: see whether what it uses hangs (a "
            f"server, a network disk, a driver), or give it more time with --check-seconds"
        )
        return [Finding(self._check.name, Status.FAILED, text)]


def _in_words(error: Exception) -> str:
    """Return an error that was raised for a reader as it is, and any other with its place."""
    if isinstance(error, OSError | ValueError | RuntimeError) and str(error):
        return str(error)
    if isinstance(error, OmegaConfBaseException):
        return f"{str(error).splitlines()[0]}; expected a whole configuration: set that key or variable"
    *_, frame = traceback.extract_tb(error.__traceback__)
    return f"the check crashed: {error!r} in {frame.filename}:{frame.lineno}; expected a finding: report it as a defect"


def run_stages(stages: list[Stage], limit_seconds: float, report: Callable[[str, list[Finding]], None]) -> None:
    """Run the stages one after the other, the checks of each at the same time."""
    for stage in stages:
        try:
            stage.load()
        except Exception as error:
            # An import may raise anything: a missing library of the system, a package built for another one.
            for check in stage.checks:
                text = f"what it needs can't be imported: {error!r}; expected a whole installation: install it anew"
                report(check.name, [Finding(check.name, Status.FAILED, text)])
            continue
        attempts = [(check.name, Attempt(check)) for check in stage.checks]
        for name, attempt in attempts:
            report(name, attempt.findings(limit_seconds))


def stages_of(name: str, subject: Subject) -> list[Stage]:
    """Return the checks of a lane: `light`, which needs nothing slow, or `verl`, which imports torch and verl."""
    if name == "light":
        from arpo_verl.doctor.light import light_stages

        return light_stages(subject)
    from arpo_verl.integration.doctor_checks import verl_stages

    stages: list[Stage] = verl_stages(subject)
    return stages


def main() -> None:
    """Run a lane."""
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no finding
    name = sys.argv[1]
    with contextlib.suppress(Exception):  # whatever an import raises, its stage raises again
        importlib.import_module(AHEAD[name])
    subject = Subject.from_json(sys.stdin.readline())
    stages = stages_of(name, subject)

    def write(line: str) -> None:
        output.write(line + "\n")
        output.flush()

    write(json.dumps([check.name for stage in stages for check in stage.checks]))
    run_stages(stages, subject.options.check_seconds, lambda name, findings: write(line_of(name, findings)))
    os._exit(0)  # a check that was left behind would keep the interpreter


if __name__ == "__main__":
    main()
