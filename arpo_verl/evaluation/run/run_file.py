"""The writer of a run's file: it locks the file, appends line by line, resumes it, and sorts it at the end.

A line is one `write` to a file opened with O_APPEND, so a killed process leaves whole lines and at most one torn one,
which the next process cuts off. Whole lines are never changed but for their order, in a new file that takes the old
one's place.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from arpo_verl.evaluation.records import Run, RunHeader, SampleRecord, line_of, read_run

MAY_DIFFER = ("base_url",)
"""Settings that may change when a run goes on: a server is often restarted elsewhere."""
_HEAD = b'{"type": "run"'


class RunFileError(Exception):
    """The file can't be written to by this run."""


class RunFile:
    """A run's file, locked by this process."""

    def __init__(self, path: Path, descriptor: int, header: RunHeader, samples: list[SampleRecord]) -> None:
        self._path, self._descriptor, self._header = path, descriptor, header
        self.finished = {sample.key for sample in samples}

    def append(self, sample: SampleRecord) -> None:
        """Add a finished sample; the first brings the header.

        Raises:
            RunFileError: the disk is full or gone; nothing of the line is left.
        """
        start = os.fstat(self._descriptor).st_size
        line = line_of(sample) if start else line_of(self._header) + line_of(sample)
        try:
            written = os.write(self._descriptor, line)
            while written < len(line):
                written += os.write(self._descriptor, line[written:])
        except OSError as error:
            os.ftruncate(self._descriptor, start)
            raise RunFileError(
                f"{self._path} can't be written to: {error}; expected room on its disk: make some, and run the same "
                f"command again"
            ) from error
        self.finished.add(sample.key)

    def sort(self, order: Sequence[tuple[str, int]]) -> None:
        """Sort the samples by the given order of keys, all of which are in the file."""
        run = read_run(self._path)
        by_key = {sample.key: sample for sample in run.samples}
        if [sample.key for sample in run.samples] == list(order):
            return
        # One name, which is this process's own as long as it holds the file: a killed process leaves nothing for ever.
        new = self._path.with_name(f".{self._path.name}.sorted")
        with new.open("wb") as file:
            file.write(line_of(run.header))
            file.writelines(line_of(by_key[key]) for key in order)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), os.fstat(self._descriptor).st_mode & 0o777)
        os.replace(new, self._path)


@contextlib.contextmanager
def open_run_file(path: Path, header: RunHeader, keys: Sequence[tuple[str, int]]) -> Iterator[RunFile]:
    """Lock a run's file, a new one or one to resume. A file without a sample is removed at the end.

    Args:
        path: the file.
        header: this run's settings.
        keys: the samples that this run consists of.

    Raises:
        RunFileError: another process holds it, it is not a run's file, or its run has other settings.
    """
    descriptor = _open_and_lock(path)
    try:
        samples = _read_samples(path, descriptor, header, keys)
        yield RunFile(path, descriptor, header, samples)
        os.fsync(descriptor)
    finally:
        if os.fstat(descriptor).st_size == 0 and _is_same_file(path, descriptor):
            path.unlink()
        os.close(descriptor)


def _open_and_lock(path: Path) -> int:
    """Open a file and lock it, as long as it is still the one at the path: its holder may have replaced it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise RunFileError(
                f"{path} is being written to by another evaluation; expected one at a time: wait for its end, or "
                f"choose another --out"
            ) from None
        if _is_same_file(path, descriptor):
            return descriptor
        os.close(descriptor)


def _is_same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _read_samples(
    path: Path, descriptor: int, header: RunHeader, keys: Sequence[tuple[str, int]]
) -> list[SampleRecord]:
    """Return the samples of the file, and cut off an incomplete last line."""
    content = path.read_bytes()
    if not content.startswith(_HEAD) and not _HEAD.startswith(content):
        raise RunFileError(f"{path} is not the file of an evaluation; expected one, or none yet: choose another --out")
    whole = content.rfind(b"\n") + 1
    if whole:
        run = _read(path)
        _expect_same(path, run.header, header)
        known = set(keys)
        if unknown := [sample.key for sample in run.samples if sample.key not in known]:
            raise RunFileError(f"{path} has the sample {unknown[0]}, which is not in the data: choose another --out")
    os.ftruncate(descriptor, whole)
    return run.samples if whole else []


def _read(path: Path) -> Run:
    try:
        return read_run(path)
    except ValueError as error:
        raise RunFileError(f"{error}; or choose another --out") from error


def _expect_same(path: Path, found: RunHeader, wanted: RunHeader) -> None:
    difference = next(_differences("", _settings(found), _settings(wanted)), None)
    if difference is not None:
        name, was, is_now = difference
        raise RunFileError(
            f"{path} was begun with {name}={was!r}, and this command has {is_now!r}; expected the same settings to go "
            f"on: change that back, or choose another --out"
        )


def _settings(header: RunHeader) -> dict[str, Any]:
    settings = {name: value for name, value in asdict(header).items() if name not in MAY_DIFFER}
    settings["overrides"] = sorted(settings["overrides"])
    # Where a file lies is not what it says.
    for name in ("data", "tool_files"):
        files = enumerate(settings[name], start=1)
        settings[name] = {f"{number}: {Path(one['file']).name} (sha256)": one["sha256"] for number, one in files}
    return settings


def _differences(prefix: str, found: dict[str, Any], wanted: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for key in {**found, **wanted}:
        was, is_now = found.get(key), wanted.get(key)
        if isinstance(was, dict) and isinstance(is_now, dict):
            yield from _differences(f"{prefix}{key}.", was, is_now)
        elif was != is_now:
            yield f"{prefix}{key}", was, is_now
