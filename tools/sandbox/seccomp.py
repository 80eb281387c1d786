"""The system call filter of a child: a list of what is allowed, everything else refused (seccomp-BPF by hand).

Against the tricks that filters are known to miss: the architecture word is checked (32-bit calls on a 64-bit kernel),
so is the x32 bit; a signal goes to the own process only, whatever call sends it, and no descriptor can be told to send
one (F_SETOWN); a clone must be a thread; no flag that opens for writing passes unless there is a scratch directory.

A filter sees numbers, not paths and not what a pointer points to: which files may be read is landlock's business.
"""

import ctypes
import errno
import struct

from . import syscalls
from .kernel import MACHINES, machine, syscall

_SECCOMP = {"x86_64": 317, "aarch64": 277}
_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_*
_SET_MODE_FILTER = 1

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_KILL_PROCESS = 0x80000000

# One instruction: operation, jump if true, jump if false (both in instructions to skip), constant.
Instruction = tuple[int, int, int, int]
_LOAD, _AND, _EQUAL, _GREATER_OR_EQUAL, _ANY_BIT, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE_WORD = 0, 4  # offsets in struct seccomp_data

_OWN_PID = 0x7FFFFFFE
"""Stands for the child's process id until it is known; no process has this one (PID_MAX_LIMIT is 2**22)."""

_X32_BIT = 0x40000000
_CLONE_THREAD = 0x00010000
_OPEN_TO_CHANGE = 0o1 | 0o2 | 0o100 | 0o1000 | 0o2000 | 0o20000000
"""O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_APPEND and the bit of O_TMPFILE: the same on both machines."""
_FCNTL = [0, 1, 2, 3, 4, 1030, 1032]
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, F_GETPIPE_SZ."""
_FCNTL_LOCKS = [5, 6, 7]
"""F_GETLK, F_SETLK, F_SETLKW: SQLite wants them, and a lock on a file of the host could stop its owner."""
_IOCTL = [0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451]
"""TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX."""
_SOCKET_OPTIONS = [3, 4, 7, 8, 38, 39]
"""SO_TYPE, SO_ERROR, SO_SNDBUF, SO_RCVBUF, SO_PROTOCOL, SO_DOMAIN; not SO_PEERPIDFD, which opens a process."""
_FUTEX_PRIVATE = 128
_PRCTL = [15, 16]
"""PR_SET_NAME, PR_GET_NAME; not PR_SET_PDEATHSIG, by which a child could outlive the helper."""


def _argument(index: int, word: int = 0) -> Instruction:
    return (_LOAD, 0, 0, 16 + 8 * index + 4 * word)  # both machines are little-endian: the low word comes first


def _refuse(error: int) -> Instruction:
    return (_RETURN, 0, 0, _ERRNO | error)


def _one_of(index: int, values: list[int], error: int) -> list[Instruction]:
    """Go on if the low word of an argument is one of the values."""
    jumps = [(_EQUAL, len(values) - position, 0, value) for position, value in enumerate(values)]
    return [_argument(index), *jumps, _refuse(error)]


def _masked(index: int, mask: int, value: int, error: int) -> list[Instruction]:
    return [_argument(index), (_AND, 0, 0, mask), (_EQUAL, 1, 0, value), _refuse(error)]


def _null(index: int, error: int) -> list[Instruction]:
    """Go on if all 64 bits of an argument are 0."""
    return [
        *(_argument(index, 0), (_EQUAL, 1, 0, 0), _refuse(error)),
        *(_argument(index, 1), (_EQUAL, 1, 0, 0), _refuse(error)),
    ]


def _filtered(has_scratch: bool, allow_threads: bool) -> dict[str, list[Instruction]]:
    """Return what must hold for each call of `syscalls.FILTERED`, as instructions that go on if it does."""
    own_process = _one_of(0, [_OWN_PID], errno.EPERM)
    thread_only = _masked(0, _CLONE_THREAD, _CLONE_THREAD, errno.EPERM)
    return {
        "open": [] if has_scratch else _masked(1, _OPEN_TO_CHANGE, 0, errno.EROFS),
        "openat": [] if has_scratch else _masked(2, _OPEN_TO_CHANGE, 0, errno.EROFS),
        "clone": thread_only if allow_threads else [_refuse(errno.EAGAIN)],
        "kill": own_process,
        "tgkill": own_process,
        "rt_sigqueueinfo": own_process,
        "rt_tgsigqueueinfo": own_process,
        "fcntl": _one_of(1, _FCNTL + (_FCNTL_LOCKS if has_scratch else []), errno.EPERM),
        "ioctl": _one_of(1, _IOCTL, errno.EPERM),
        "prctl": _one_of(0, _PRCTL, errno.EPERM),
        "prlimit64": [*_one_of(0, [0, _OWN_PID], errno.EPERM), *_null(2, errno.EPERM)],
        # Streams only: a datagram socket could send to any address that a path or an abstract name leads to.
        "socketpair": [*_one_of(0, [1], errno.EPERM), *_masked(1, 0xF, 1, errno.EPERM)],
        "getsockopt": _one_of(2, _SOCKET_OPTIONS, errno.EPERM),
        "sendto": _null(4, errno.EPERM),
        # On a page of a file, such as the C library, others could be woken and counted: any process that maps it.
        # EAGAIN makes who waits look again, as `pthread_join` does, the one that waits for what is not private.
        "futex": _masked(1, _FUTEX_PRIVATE, _FUTEX_PRIVATE, errno.EAGAIN),
    }


def _rules(has_scratch: bool, allow_threads: bool) -> dict[str, list[Instruction]]:
    """Return the body of the rule of every known call."""
    allow = (_RETURN, 0, 0, _ALLOW)
    rules = {name: [allow] for name in syscalls.FREE}
    rules |= {name: [*checks, allow] for name, checks in _filtered(has_scratch, allow_threads).items()}
    rules |= {name: [_refuse(errno.EPERM)] for name in syscalls.REFUSED}
    rules |= {name: [allow if has_scratch else _refuse(errno.EROFS)] for name in syscalls.CHANGES}
    rules |= {name: [_refuse(errno.EROFS)] for name in syscalls.METADATA}
    rules |= {name: [_refuse(errno.ENOSYS)] for name in syscalls.FALL_BACK}
    return rules


def build_filter(has_scratch: bool = False, allow_threads: bool = True, on_machine: str | None = None) -> bytes:
    """Assemble the filter for a child whose process id is yet unknown.

    Args:
        has_scratch: whether files may be opened for writing; landlock must then say where.
        allow_threads: whether threads may be started; nothing here counts them.
        on_machine: `x86_64` or `aarch64`; this machine by default.

    Raises:
        OSError: the machine is another one.
    """
    on_machine = on_machine or machine()
    if on_machine not in MACHINES:
        raise OSError(errno.ENOSYS, f"no table of system calls for {on_machine}; expected one of {[*MACHINES]}")
    groups = (syscalls.FREE, syscalls.FILTERED, syscalls.REFUSED, syscalls.CHANGES, syscalls.METADATA)
    numbers = {
        name: row[MACHINES[on_machine]] for group in (*groups, syscalls.FALL_BACK) for name, row in group.items()
    }
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE_WORD),
        (_EQUAL, 1, 0, _ARCHITECTURE[on_machine]),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if on_machine == "x86_64":
        program += [(_GREATER_OR_EQUAL, 0, 1, _X32_BIT), _refuse(errno.ENOSYS)]
    for name, body in _rules(has_scratch, allow_threads).items():
        if (number := numbers[name]) is not None:
            program += [(_EQUAL, 0, len(body), number), *body]
    program.append(_refuse(errno.ENOSYS))
    return assemble(program)


def assemble(program: list[Instruction]) -> bytes:
    """Return the instructions as the kernel reads them (struct sock_filter)."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def for_process(program: bytes, pid: int) -> bytes:
    """Return the filter with the process id in its place."""
    return program.replace(struct.pack("=I", _OWN_PID), struct.pack("=I", pid))


def install(program: bytes, flags: int = 0) -> int:
    """Put a filter on this process, for good. It needs `no_new_privs`, or CAP_SYS_ADMIN.

    Returns what the kernel returns: a descriptor, when the flags ask for one.

    Raises:
        OSError: the kernel, or a container around us, refuses.
    """
    if machine() not in _SECCOMP:
        raise OSError(errno.ENOSYS, f"the number of seccomp on {machine()} is not known here")
    instructions = ctypes.create_string_buffer(program, len(program))
    size_and_address = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
    filter_program = ctypes.create_string_buffer(size_and_address, len(size_and_address))
    return syscall(_SECCOMP[machine()], _SET_MODE_FILTER, flags, filter_program)
