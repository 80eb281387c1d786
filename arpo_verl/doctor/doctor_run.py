"""One run of the doctor: both groups of checks at the same time, each in a process group that is killed in the end."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

from arpo_verl.doctor.finding import DoctorInput, Finding, Status, from_line

GROUPS = ("light", "verl")
LOAD_SECONDS = 90.0
"""Time that a group may take to import what it needs: torch and verl from a cold network disk."""
_STAGES = 3


class DoctorRun:
    """The processes of the check groups, which start and import what they need when the context is entered."""

    def __enter__(self) -> "DoctorRun":
        self._processes = [CheckProcess(group) for group in GROUPS]
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._processes:
            process.stop()

    def findings(self, doctor_input: DoctorInput) -> Iterator[Finding]:
        """Yield the findings of all checks, always in the same order."""
        for process in self._processes:
            process.send(doctor_input)
        for process in self._processes:
            yield from process.findings()


class CheckProcess:
    """The process that runs one group of checks (`check_program.py`)."""

    def __init__(self, group: str) -> None:
        self._group = group
        self._limit_seconds = LOAD_SECONDS
        self._deadline = 0.0
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - `stop` closes it
        self._process = subprocess.Popen(
            [sys.executable, "-m", "arpo_verl.doctor.check_program", group],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
            text=True,
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def send(self, doctor_input: DoctorInput) -> None:
        """Start the checks."""
        self._limit_seconds = LOAD_SECONDS + _STAGES * doctor_input.options.check_seconds
        self._deadline = time.monotonic() + self._limit_seconds
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(doctor_input.to_json() + "\n")

    def _read(self) -> None:
        """Put the process's lines into the queue, and '' at their end."""
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put("")

    def _line(self) -> str:
        """Return the next line, or '' where there is none."""
        try:
            return self._lines.get(timeout=max(0.0, self._deadline - time.monotonic()))
        except queue.Empty:
            return ""

    def findings(self) -> Iterator[Finding]:
        """Yield what the group found; checks without a result are failed ones."""
        header = self._line()
        expected: list[str] = json.loads(header) if header else [f"checks ({self._group})"]
        seen: set[str] = set()
        while line := self._line():
            name, findings = from_line(line)
            seen.add(name)
            yield from findings
        missing = [name for name in expected if name not in seen]
        if missing:
            reason = self._end_reason()
            for name in missing:
                yield Finding(name, Status.FAILED, reason)

    def _end_reason(self) -> str:
        """Return why the process ended early, for the report."""
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return (
                f"not done when its process was cut off after {self._limit_seconds:g} s; expected an end: see whether "
                f"`python -c 'import verl'` comes to one, or give it more time with --check-seconds"
            )
        self._errors.seek(0)
        tail = self._errors.read()[-500:].decode("utf-8", "replace").strip() or "no message"
        return f"its process ended with code {code}: {tail}; expected a finding: repair that first"

    def stop(self) -> None:
        """Kill what is left of the process and its children, and reap it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(1.0)
        self._errors.close()
