"""System calls that Python has no function for, through ctypes, with the errors that Python's own would raise."""

import ctypes
import os
import platform
from typing import TypeAlias

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

_CLOSE_RANGE = 436

CharArray: TypeAlias = ctypes.Array[ctypes.c_char]

MACHINES = {"x86_64": 0, "aarch64": 1}
"""Machines whose system calls are known here; the value is the column in `syscalls`."""


def machine() -> str:
    """Return the name of the machine that this process runs as, which may be 32-bit on a 64-bit kernel."""
    name = platform.machine().replace("arm64", "aarch64")
    return name if ctypes.sizeof(ctypes.c_void_p) == 8 else f"{name} with 32-bit pointers"


def syscall(number: int, *arguments: int | CharArray | None) -> int:
    """Make a system call.

    Raises:
        OSError: it failed.
    """
    # Without the conversion ctypes would pass integers as 32-bit ones.
    converted = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result = _libc.syscall(ctypes.c_long(number), *converted)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return int(result)


def prctl(option: int, first: int | bytes = 0, second: int = 0) -> None:
    """Set an attribute of this process.

    Raises:
        OSError: it failed.
    """
    first_argument = ctypes.c_char_p(first) if isinstance(first, bytes) else ctypes.c_ulong(first)
    zero = ctypes.c_ulong(0)
    if _libc.prctl(option, first_argument, ctypes.c_ulong(second), zero, zero) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def unshare(flags: int) -> None:
    """Leave namespaces.

    Raises:
        OSError: it failed.
    """
    if _libc.unshare(flags) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def mount(kind: bytes | None, target: bytes, flags: int, options: bytes | None) -> None:
    """Mount a file system that needs no device, or change a mount when `kind` is None.

    Raises:
        OSError: it failed.
    """
    if _libc.mount(kind or b"none", target, kind, ctypes.c_ulong(flags), options) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def close_descriptors_from(first: int, last: int) -> None:
    """Close every descriptor from `first` on; up to `last` where the kernel is older than 5.9."""
    try:
        syscall(_CLOSE_RANGE, first, 0xFFFFFFFF, 0)
    except OSError:
        os.closerange(first, last + 1)
