"""Counts the threads of a child, where no limit of the kernel does.

RLIMIT_NPROC is not enforced for root, and for anybody else it counts every process of the user. So each start of a
thread is announced to the helper (a user notification of seccomp), which lets it pass or refuses it.
"""

import errno
import fcntl
import os
import select
import struct

from . import seccomp, syscalls
from .kernel import MACHINES, machine

MOST_ALIVE = 32
"""Threads of one child at a time."""
_MOST_STARTED = 512
"""Threads that one child may start in all: each costs the helper, which serves others too, some 0.1 ms."""

_NEW_LISTENER = 1 << 3  # SECCOMP_FILTER_FLAG_NEW_LISTENER
_USER_NOTIFICATION = 0x7FC00000
_RECEIVE, _SEND = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_*
_NOTIFICATION_BYTES = 80
_CONTINUE = 1


def install() -> int:
    """Have this process announce each start of a thread, and return the descriptor on which it is announced.

    The filter of `seccomp` must follow: this one lets everything else pass.

    Raises:
        OSError: the kernel is older than 5.5, or there is such a listener already, a container's.
    """
    clone = syscalls.FILTERED["clone"][MACHINES[machine()]]
    program: list[seccomp.Instruction] = [
        (0x20, 0, 0, 0),  # load the number of the call
        (0x15, 0, 1, clone or 0),
        (0x06, 0, 0, _USER_NOTIFICATION),
        (0x06, 0, 0, 0x7FFF0000),
    ]
    return seccomp.install(seccomp.assemble(program), _NEW_LISTENER)


class ThreadGate:
    """The helper's side of one child's gate."""

    def __init__(self, listener: int, threads: int) -> None:
        """
        Args:
            listener: what `install` has returned in the child.
            threads: its `/proc/self/task`, opened by the child itself: where `/proc` is mounted with `hidepid`, no
                other process may look into what belongs to one that can't be dumped.
        """
        self.listener = listener
        self._threads = threads
        self._started = 0
        self._poll = select.poll()
        self._poll.register(listener, select.POLLIN)

    def answer(self) -> bool:
        """Answer one announcement; return False when no thread is left to announce anything."""
        # Before Linux 6.6, receiving waits for ever when the child has ended and nothing is announced.
        if not any(events & select.POLLIN for _, events in self._poll.poll(0)):
            return False
        notification = bytearray(_NOTIFICATION_BYTES)
        try:
            fcntl.ioctl(self.listener, _RECEIVE, notification)
        except OSError as error:
            return error.errno in (errno.ENOENT, errno.EINTR)  # the thread was killed while it asked
        identifier = struct.unpack_from("=Q", notification)[0]
        self._started += 1
        is_allowed = self._started <= _MOST_STARTED and self._alive() < MOST_ALIVE
        answer, flags = (0, _CONTINUE) if is_allowed else (-errno.EAGAIN, 0)
        try:
            fcntl.ioctl(self.listener, _SEND, struct.pack("=QqiI", identifier, 0, answer, flags))
        except OSError as failure:
            return failure.errno == errno.ENOENT
        return True

    def _alive(self) -> int:
        try:
            return len(os.listdir(self._threads))
        except OSError:
            return MOST_ALIVE

    def close(self) -> None:
        os.close(self.listener)
        os.close(self._threads)
