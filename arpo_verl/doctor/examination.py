"""Runs both lanes of checks at the same time, each in a process group that is killed in the end."""

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

from arpo_verl.doctor.finding import Finding, Status, Subject, from_line

LANES = ("light", "verl")
LOAD_SECONDS = 90.0
"""For the imports of a lane: torch and verl from a cold network disk."""
_STAGES = 3


class Examination:
    """The lanes, which start when the context is entered and import what they need, and end with it."""

    def __enter__(self) -> "Examination":
        self._lanes = [_Lane(name) for name in LANES]
        return self

    def __exit__(self, *error: object) -> None:
        for lane in self._lanes:
            lane.stop()

    def findings(self, subject: Subject) -> Iterator[Finding]:
        """Yield the findings of all checks, always in the same order."""
        for lane in self._lanes:
            lane.send(subject)
        for lane in self._lanes:
            yield from lane.findings()


class _Lane:
    """One process of checks."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._limit_seconds = LOAD_SECONDS
        self._deadline = 0.0
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - `stop` closes it
        self._process = subprocess.Popen(
            [sys.executable, "-m", "arpo_verl.doctor.lane", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
            text=True,
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def send(self, subject: Subject) -> None:
        """Have the checks begin."""
        self._limit_seconds = LOAD_SECONDS + _STAGES * subject.options.check_seconds
        self._deadline = time.monotonic() + self._limit_seconds
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(subject.to_json() + "\n")

    def _read(self) -> None:
        """Queue the process's lines, and '' at their end."""
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
        """Yield what the lane found; checks that it did not get to are failed ones."""
        header = self._line()
        expected: list[str] = json.loads(header) if header else [f"checks ({self._name})"]
        seen: set[str] = set()
        while line := self._line():
            name, findings = from_line(line)
            seen.add(name)
            yield from findings
        missing = [name for name in expected if name not in seen]
        if missing:
            reason = self._end()
            for name in missing:
                yield Finding(name, Status.FAILED, reason)

    def _end(self) -> str:
        """Return why the lane ended early, in words for a report."""
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return (
                f"not done when its process was cut off after {self._limit_seconds:g} s; expected an end: see whether "
                f"`python -c 'import verl'` comes to one, or give it more time with --check-seconds"
            )
        self._errors.seek(0)
        words = self._errors.read()[-500:].decode("utf-8", "replace").strip()
        return f"its process ended with code {code}: {words or 'without a word'}; expected a finding: repair that first"

    def stop(self) -> None:
        """Kill what is left of the process and its children, and reap it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(1.0)
        self._errors.close()
