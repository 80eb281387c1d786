"""The check of a cache file. It changes nothing: a run would rename a damaged file and start a new one."""

import sqlite3
import tempfile
from pathlib import Path

from arpo_tools.cache import SearchCache
from arpo_tools.sqlite.file import ForeignFileError, fault_of
from arpo_tools.sqlite.file_system import network_file_system
from arpo_verl.doctor.finding import Finding, Status


def check_cache(path: str) -> list[Finding]:
    """Return the finding about the cache at a path, which need not exist yet."""
    file = Path(path).absolute()
    folder = next(parent for parent in file.parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        text = f"{folder} can't be written ({error}); expected a folder for {file}: make it writable or set `cache`"
        return [Finding("cache", Status.FAILED, text)]
    if _has_content(file) and (problem := _problem(file)):
        return [Finding("cache", Status.FAILED, problem)]
    if kind := network_file_system(file.parent):
        advice = "expected a local disk, whose file locks work: set `cache` or ARPO_TOOLS_CACHE"
        return [Finding("cache", Status.WARNING, f"{file} is on the network file system {kind}; {advice}")]
    state = (
        f"{file.stat().st_size / (1 << 20):.1f} MB, undamaged" if _has_content(file) else "begun by the first answer"
    )
    return [Finding("cache", Status.OK, f"{file}: {state}")]


def _has_content(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


def _problem(file: Path) -> str | None:
    """Return what is wrong with a file, or None."""
    try:
        cache = SearchCache(file, is_read_only=True)
        fault = cache.require_file().run(fault_of)
        cache.close()
    except ForeignFileError as error:
        return f"{error}; expected a search cache"
    except (OSError, sqlite3.Error) as error:
        fault = str(error)
    if fault is None:
        return None
    return (
        f"{file} is damaged ({fault}); expected a search cache: move it away or restore a copy; a run would rename it "
        f"and begin a new one"
    )
