"""Why a run ended, in words, from the last lines of its log."""

import subprocess
import sys
from pathlib import Path

import failure_report
import pytest

OUT_OF_MEMORY = "ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory."
RAYLET = "(raylet) 2 Workers (tasks / actors) killed due to memory pressure (OOM), 0 Workers crashed for other reasons"
GENERIC = (
    "The actor died unexpectedly before finishing this task. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
    "unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was "
    "killed by the OOM killer due to high memory usage, (2) ray stop --force was called"
)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (OUT_OF_MEMORY, "Ray's memory monitor has killed a process"),
        (RAYLET, "Ray's memory monitor has killed a process"),
        ("1 worker(s) were killed due to the node running low on memory. ", "Ray's memory monitor"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "a GPU's memory is full"),
        ("OSError: [Errno 28] No space left on device", "a disk is full"),
        ("sqlite3.OperationalError: database or disk is full", "a disk is full"),
        ("OSError: [Errno 122] Disk quota exceeded", "a disk is full"),
        ("Killed", "a process was killed from outside"),
        ("worker 0 died with exit code -9", "a process was killed from outside"),
    ],
)
def test_a_reason_is_found_wherever_the_log_says_it(tmp_path, line, words):
    log = tmp_path / "train.log"
    log.write_text(f"begin\n{line}\n" + "Traceback of something else\n" * 100)
    shown = failure_report.report(log, 1).splitlines()
    assert shown[-2].startswith(f"reason: {words}")
    assert shown[-1] == f"ended with code 1; its log: {log}"
    assert shown[:-2] == ["Traceback of something else"] * failure_report.SHOWN_LINES


@pytest.mark.parametrize("line", [GENERIC, "all is well", "used 3 GB of memory", "killed 0 of 4 tasks"])
def test_no_reason_is_made_up(line):
    assert failure_report.reasons(line) == []


def test_a_kill_from_outside_leaves_no_word_in_the_log_but_a_code(tmp_path):
    (tmp_path / "log").write_text("step 1\n")
    assert "killed from outside" in failure_report.report(tmp_path / "log", 137)


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00", b"x" * 3_000_000])
def test_any_log_is_reported(tmp_path, content):
    log = tmp_path / "log"
    if content is not None:
        log.write_bytes(content)
    assert failure_report.report(log, 3).splitlines()[-1].startswith("ended with code 3; its log")


def test_it_needs_nothing_beyond_python(tmp_path):
    (tmp_path / "log").write_text("the last line\n")
    script = Path(failure_report.__file__)
    command = [sys.executable, "-I", "-S", str(script), str(tmp_path / "log"), "7"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown == f"the last line\nended with code 7; its log: {tmp_path / 'log'}\n"
