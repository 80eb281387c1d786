"""`python -m arpo_verl.doctor.check_program GROUP`: runs a group of checks in a process that can be killed.

It reads a `DoctorInput` from standard input and writes the names of its checks and then the findings of each to
standard output, one JSON value a line, in the order of the checks. A check that takes too long is left behind in its
thread; the process ends without waiting for it.
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

from arpo_verl.doctor.finding import DoctorCheck, DoctorInput, Finding, Stage, Status, line_of

EARLY_IMPORTS = {"light": "arpo_verl.doctor.light_checks", "verl": "torch"}
"""What a group imports before it reads its input, whose configuration takes a second to compose."""


class RunningCheck:
    """A check that runs in a thread of its own."""

    def __init__(self, check: DoctorCheck) -> None:
        self._check = check
        self._findings: list[Finding] | None = None
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._findings = self._check.run()
        except Exception as error:
            # Whatever a machine makes a library raise is a line of the report.
            self._findings = [Finding(self._check.name, Status.FAILED, _error_text(error))]

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


def _error_text(error: Exception) -> str:
    """Return the message of an error that was raised for a reader as it is, and that of any other with its place."""
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
        running_checks = [(check.name, RunningCheck(check)) for check in stage.checks]
        for name, running_check in running_checks:
            report(name, running_check.findings(limit_seconds))


def group_stages(name: str, doctor_input: DoctorInput) -> list[Stage]:
    """Return the checks of a group: `light`, which imports nothing slow, or `verl`, which imports torch and verl."""
    if name == "light":
        from arpo_verl.doctor.light_checks import light_stages

        return light_stages(doctor_input)
    from arpo_verl.doctor.verl_checks import verl_stages

    stages: list[Stage] = verl_stages(doctor_input)
    return stages


def main() -> None:
    """Run the group of checks that the command line names."""
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no finding
    name = sys.argv[1]
    with contextlib.suppress(Exception):  # whatever an import raises, its stage raises again
        importlib.import_module(EARLY_IMPORTS[name])
    doctor_input = DoctorInput.from_json(sys.stdin.readline())
    stages = group_stages(name, doctor_input)

    def write(line: str) -> None:
        output.write(line + "\n")
        output.flush()

    write(json.dumps([check.name for stage in stages for check in stage.checks]))
    run_stages(stages, doctor_input.options.check_seconds, lambda name, findings: write(line_of(name, findings)))
    os._exit(0)  # a check that was left behind would keep the interpreter


if __name__ == "__main__":
    main()
