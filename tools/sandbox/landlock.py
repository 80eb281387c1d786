"""Restricts the files that a child may read and the directory that it may write, by Landlock.

Everything that the running kernel's version of Landlock can handle is handled: files (ABI 1 to 3), TCP (4), device
ioctls (5), abstract sockets and signals (6). Not covered by any version: whether a path exists, its size and its owner
can be asked for (`stat`), and modes, owners, times and attributes can be changed, which the system call filter refuses.
"""

import contextlib
import ctypes
import os
import stat
import struct

from .kernel import CharArray, syscall

# The same on every machine.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_RESTRICT_SELF_LOG_SAME_EXEC_OFF = 1

_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_WRITE_FILE, _TRUNCATE = 1 << 1, 1 << 14
# Not: EXECUTE, MAKE_CHAR, MAKE_BLOCK, MAKE_SOCK, MAKE_FIFO, IOCTL_DEV.
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG, _MAKE_SYM, _REFER = 1 << 4, 1 << 5, 1 << 7, 1 << 8, 1 << 12, 1 << 13
_READ = _READ_FILE | _READ_DIR
_WRITE = _WRITE_FILE | _TRUNCATE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SYM | _REFER
_FOR_FILES = _READ_FILE | _WRITE_FILE | _TRUNCATE
"""The rights that a rule on something other than a directory may name."""

SCRATCH_ABI = 3
"""The first version that controls truncation, without which a scratch directory would open every file to it."""


def abi_version() -> int:
    """Return the kernel's version of Landlock.

    Raises:
        OSError: ENOSYS before Linux 5.13, EOPNOTSUPP where it is switched off, EPERM where a container forbids it.
    """
    return syscall(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)


def _handled(abi: int) -> tuple[int, int, int]:
    """Return what a ruleset handles: access to files, to the network, and scopes."""
    files = (1 << 13) - 1  # EXECUTE to MAKE_SYM
    for bit, since in ((13, 2), (14, 3), (15, 5)):  # REFER, TRUNCATE, IOCTL_DEV
        files |= (abi >= since) << bit
    network = 0b11 if abi >= 4 else 0  # BIND_TCP, CONNECT_TCP
    scopes = 0b11 if abi >= 6 else 0  # ABSTRACT_UNIX_SOCKET, SIGNAL
    return files, network, scopes


def create_ruleset(readable: list[str], writable: str | None = None) -> int:
    """Return the descriptor of a ruleset; paths that don't exist are left out.

    Args:
        readable: files, and directories with all that is in them.
        writable: a directory whose contents may be changed too.

    Raises:
        OSError: see `abi_version`.
    """
    abi = abi_version()
    files, network, scopes = _handled(abi)
    attributes = struct.pack("=QQQ", files, network, scopes)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = syscall(_CREATE_RULESET, _buffer(attributes), size, 0)
    try:
        for path in readable:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                _allow(ruleset, path, _READ & files)
        if writable is not None:
            _allow(ruleset, writable, (_READ | _WRITE) & files)
    except BaseException:
        os.close(ruleset)
        raise
    return ruleset


def _allow(ruleset: int, path: str, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _FOR_FILES
        syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, _buffer(struct.pack("=Qi", rights, descriptor)), 0)
    finally:
        os.close(descriptor)


def restrict_self(ruleset: int) -> None:
    """Put this process under a ruleset, for good. It needs `no_new_privs`, or CAP_SYS_ADMIN.

    Raises:
        OSError: the kernel refuses.
    """
    # From ABI 7 on every refusal would be written to the audit log, and a model can be refused a lot.
    flags = _RESTRICT_SELF_LOG_SAME_EXEC_OFF if abi_version() >= 7 else 0
    syscall(_RESTRICT_SELF, ruleset, flags)


def _buffer(content: bytes) -> CharArray:
    return ctypes.create_string_buffer(content, len(content))
