"""Limits the resources and drops the privileges of a child before it runs model code."""

import contextlib
import ctypes
import os
import resource
import struct
from dataclasses import dataclass

from . import kernel

_CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITY_VERSION_3 = 0x20080522
_MOST_CAPABILITIES = 64

ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""The environment of helper and programs. Each thread of a BLAS would reserve address space against the limit."""

OPEN_FILES = 64
"""Descriptors of a child. Enough for asyncio; what the kernel keeps behind them (pipes) is not otherwise limited."""


@dataclass(frozen=True)
class ProgramLimits:
    """The limits of one call, as they travel to the helper."""

    timeout_seconds: float
    cpu_seconds: int
    memory_mb: int
    file_mb: int
    scratch_mb: int = 0


def limit_resources(limits: ProgramLimits) -> None:
    """Set the resource limits; what is lower already stays."""
    memory, file_size = limits.memory_mb << 20, limits.file_mb << 20
    wanted = [
        (resource.RLIMIT_AS, memory, memory),
        (resource.RLIMIT_FSIZE, file_size, file_size),
        (resource.RLIMIT_CORE, 0, 0),
        # Between the two limits the kernel sends SIGXCPU, by which the end can be told from another kill.
        (resource.RLIMIT_CPU, limits.cpu_seconds, limits.cpu_seconds + 1),
        (resource.RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES),
        (resource.RLIMIT_MEMLOCK, 0, 0),
        (resource.RLIMIT_MSGQUEUE, 0, 0),
        # Queued signals count against the user, not the process: without a limit, a child could use up all.
        (resource.RLIMIT_SIGPENDING, 64, 64),
        (resource.RLIMIT_NICE, 0, 0),
        (resource.RLIMIT_RTPRIO, 0, 0),
    ]
    for what, soft, hard in wanted:
        _, highest = resource.getrlimit(what)
        if highest != resource.RLIM_INFINITY:
            soft, hard = min(soft, highest), min(hard, highest)
        resource.setrlimit(what, (soft, hard))


def drop_privileges() -> None:
    """Give up every capability for good: root without them is the owner of root's files and nothing more."""
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    with contextlib.suppress(OSError):  # Linux before 4.3 has no ambient capabilities
        kernel.prctl(kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_CLEAR_ALL)
    for capability in range(_MOST_CAPABILITIES):
        try:
            kernel.prctl(kernel.PR_CAPBSET_DROP, capability)
        except OSError:  # not root, or the kernel has no more
            break
    number = _CAPSET.get(kernel.machine())
    if number is not None:
        header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
        kernel.syscall(number, ctypes.create_string_buffer(header, 8), ctypes.create_string_buffer(24))


def leave_no_core() -> None:
    """Have no core dumped; RLIMIT_CORE doesn't keep the kernel from piping one to a program (systemd-coredump)."""
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends.

    Raises:
        ProcessLookupError: the parent is gone already.
    """
    kernel.prctl(kernel.PR_SET_PDEATHSIG, 9)
    if os.getppid() != parent:
        raise ProcessLookupError(f"the parent is {os.getppid()}, expected {parent}")
