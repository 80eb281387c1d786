"""What tests ask about processes: who descends from this one, and whether somebody is gone."""

import os
import time
from pathlib import Path


def descendants(ancestor: int | None = None) -> set[int]:
    """Return the ids of the children of a process (this one by default), their children and so on; zombies too."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found: set[int] = set()
    waiting = [ancestor or os.getpid()]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found.update(children)
        waiting += children
    return found


def named(name: str, ancestor: int | None = None) -> set[int]:
    """Return the descendants of that name: `arpo-python` is a helper, `arpo-program` a program that runs in it."""
    return {pid for pid in descendants(ancestor) if _name(pid) == name}


def helpers() -> set[int]:
    """Return the helpers of this process; a child of one has its name for a moment."""
    found = named("arpo-python")
    return found - {pid for helper in found for pid in descendants(helper)}


def is_gone(pid: int) -> bool:
    """Return whether a process has ended; a zombie has, as who reaps an orphan is not for a test to say."""
    fields = _stat(pid)
    return not fields or fields[0] == "Z"


def assert_gone(*pids: int) -> None:
    """Fail unless all the processes end within 20 s."""
    deadline = time.monotonic() + 20
    while not all(map(is_gone, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)  # the kernel delivers a signal to an orphan in its own time
    assert [pid for pid in pids if not is_gone(pid)] == []


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
