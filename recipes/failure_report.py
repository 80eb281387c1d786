"""The report on a failed run, from its log: the last lines, and known reasons that stand further up.

`python failure_report.py LOG CODE` prints it; `quickstart.py` imports it. Needs nothing beyond Python itself.
"""

import re
import sys
from pathlib import Path

SHOWN_LINES = 25
SHOWN_BYTES = 1 << 20
"""The number of bytes at the end of a log that are searched."""
REASONS = (
    # Ray's memory monitor (`ray.exceptions.OutOfMemoryError` and the raylet's own lines)
    (
        re.compile(r"ray\.exceptions\.OutOfMemoryError|killed due to (the node running low on memory|memory pressure)"),
        "Ray's memory monitor has killed a process, because this machine's memory was nearly full; expected about "
        "10 GB free: end other processes, make the run smaller, or raise RAY_memory_usage_threshold (0.95)",
    ),
    (
        re.compile(r"CUDA out of memory|torch\.(cuda\.)?OutOfMemoryError"),
        "a GPU's memory is full; expected room for vLLM and the trainer: lower gpu_memory_utilization or the batch",
    ),
    (
        re.compile(r"No space left on device|Disk quota exceeded|database or disk is full"),
        "a disk is full; expected room for the run: see `df -h` for the output folder, /dev/shm and /tmp",
    ),
    (
        re.compile(r"exit code -9\b|Signal 9 \(SIGKILL\)|^Killed$", re.MULTILINE),
        "a process was killed from outside, by the kernel for want of memory or by somebody: see `dmesg`",
    ),
)


def reasons(text: str) -> list[str]:
    """Return the first known reason that a log shows, if there is one."""
    return [reason for pattern, reason in REASONS if pattern.search(text)][:1]


def report(log: Path, code: int) -> str:
    """Return the lines to show of a run that ended with a code."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - SHOWN_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError as error:
        return f"ended with code {code}; its log can't be read: {error}"
    lines = [line for line in text.splitlines() if line.strip()][-SHOWN_LINES:]
    if code in (137, -9):
        text += "\nKilled"
    return "\n".join(
        [*lines, *(f"reason: {reason}" for reason in reasons(text)), f"ended with code {code}; its log: {log}"]
    )


if __name__ == "__main__":
    print(report(Path(sys.argv[1]), int(sys.argv[2])))
