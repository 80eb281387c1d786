"""The directory that programs start in: made by a helper, locked while it lives, removed with it.

A helper that is killed leaves its directory behind, empty; the next one of the same user removes it.
"""

import contextlib
import fcntl
import glob
import os
import tempfile

_PREFIX = "arpo-python-"
_ATTEMPTS = 10


def make_scratch() -> str:
    """Return a new directory that is this process's as long as it lives.

    Raises:
        OSError: there is no place for temporary files.
    """
    for abandoned in glob.glob(os.path.join(glob.escape(tempfile.gettempdir()), f"{_PREFIX}*")):
        _remove_if_abandoned(abandoned)
    for _ in range(_ATTEMPTS):
        scratch = tempfile.mkdtemp(prefix=_PREFIX)
        with contextlib.suppress(FileNotFoundError):  # another helper took it for abandoned
            fcntl.flock(os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), fcntl.LOCK_SH)
            os.stat(scratch)
            return scratch
    raise FileExistsError(f"no directory in {tempfile.gettempdir()} lasted; expected one for programs to start in")


def _remove_if_abandoned(folder: str) -> None:
    """Remove a directory of this user that no living process has locked, if it is empty."""
    with contextlib.suppress(OSError):
        if os.lstat(folder).st_uid != os.geteuid():
            return
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rmdir(folder)
        finally:
            os.close(descriptor)
