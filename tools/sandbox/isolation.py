"""One level of isolation: prepared once in the helper, applied in every child."""

import contextlib
import errno
import os
from dataclasses import dataclass, field

from . import kernel, landlock, limits, seccomp, thread_gate
from .limits import ProgramLimits

_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_REC, _MS_PRIVATE, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 0x4000, 1 << 18, 2, 4, 8
_SCRATCH_INODES = 4096


class IsolationError(OSError):
    """A part of the isolation can't be had."""


@dataclass
class Isolation:
    """The layers that separate a child from the rest of the machine."""

    limits: ProgramLimits
    readable: list[str]
    """Paths that may be read when there is landlock."""
    scratch: str = ""
    """The directory that a child works in: empty; its own file system when `limits.scratch_mb` is not 0."""
    has_landlock: bool = True
    has_seccomp: bool = True
    has_thread_gate: bool = True
    _ruleset: int = field(default=-1, init=False)
    _filter: bytes = field(default=b"", init=False)

    def prepare(self) -> None:
        """Make what all children share.

        Raises:
            OSError: the kernel, the machine or a container lacks what is needed.
        """
        if self.has_landlock and not self.limits.scratch_mb:
            self._ruleset = landlock.create_ruleset([*self.readable, self.scratch])
        if self.has_seccomp:
            self._filter = seccomp.build_filter(self.limits.scratch_mb > 0, allow_threads=self.has_thread_gate)

    def close(self) -> None:
        """Release what `prepare` has made."""
        if self._ruleset >= 0:
            os.close(self._ruleset)
            self._ruleset = -1

    def restrict(self, helper: int) -> int | None:
        """Isolate this process, a child of `helper`, but for what `finalize` does.

        Returns the listener of the thread gate, if there is one; it must leave this process before the program starts.

        Raises:
            OSError: a part of the isolation can't be had.
        """
        ruleset = self._ruleset
        if self.limits.scratch_mb:
            self._mount_scratch()
            if self.has_landlock:
                ruleset = landlock.create_ruleset(self.readable, writable=self.scratch)
        os.chdir(self.scratch)
        limits.drop_privileges()
        limits.die_with(helper)  # after the last change of privileges, which would take it back
        limits.leave_no_core()
        if ruleset >= 0:
            landlock.restrict_self(ruleset)
        return thread_gate.install() if self.has_seccomp and self.has_thread_gate else None

    def finalize(self) -> None:
        """Limit the resources and install the filter of system calls: the last step, as it forbids all the others."""
        # Not earlier: with few files of its own, a process may not send descriptors while others of the user do.
        limits.limit_resources(self.limits)
        if self.has_seccomp:
            seccomp.install(seccomp.for_process(self._filter, os.getpid()))

    def _mount_scratch(self) -> None:
        """Mount a file system of its own size in memory; it vanishes with the process."""
        user, group = os.geteuid(), os.getegid()
        try:
            kernel.unshare(_CLONE_NEWUSER | _CLONE_NEWNS)
            with contextlib.suppress(FileNotFoundError):
                _write("/proc/self/setgroups", "deny")
            _write("/proc/self/uid_map", f"{user} {user} 1")
            _write("/proc/self/gid_map", f"{group} {group} 1")
            kernel.mount(None, b"/", _MS_REC | _MS_PRIVATE, None)
            options = f"size={self.limits.scratch_mb}m,nr_inodes={_SCRATCH_INODES},mode=700"
            kernel.mount(b"tmpfs", self.scratch.encode(), _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, options.encode())
        except OSError as error:
            raise IsolationError(
                error.errno or errno.EPERM,
                f"scratch_mb={self.limits.scratch_mb} needs a mount in a user namespace of its own, which this machine "
                f"or container refuses ({error.strerror}): allow user namespaces, or set scratch_mb=0",
            ) from error


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
