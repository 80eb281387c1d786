"""Turns a fresh fork of the helper into a process that can run model code and keeps nothing of the helper."""

import os
import signal
import socket
import sys
import tempfile
from typing import NoReturn

from . import kernel
from .isolation import Isolation
from .limits import ONE_THREAD
from .program import renew_random_state, run_program

MOST_HELPER_FILES = 4096
"""Descriptors of the helper, which a child closes."""

GATE, READY, FAILED = b"gate", b"ready", b"failed:"
"""Messages of a child to the helper before it runs the program; afterwards the channel is closed."""


def run_child(channel: socket.socket, isolation: Isolation, helper: int) -> NoReturn:
    """Isolate this process, wait for a program, run it and end the process.

    Args:
        channel: to the helper, which sends the program's file and the end of the pipe that it prints to.
        isolation: prepared.
        helper: the process id of the helper.
    """
    try:
        source = _isolate_and_receive(channel, isolation, helper)
    except BaseException as error:
        report = f"{type(error).__name__}: {error}".encode("utf-8", "replace")[:1000]
        channel.send(FAILED + report)
        os._exit(1)
    run_program(source, isolation.limits.memory_mb)
    os._exit(1)


def _isolate_and_receive(channel: socket.socket, isolation: Isolation, helper: int) -> bytes:
    """Isolate this process and return the program; no code of the model has run by then."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    # Its own, not the helper's: what one program sets on an open file, the next would find set.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    kernel.prctl(kernel.PR_SET_NAME, b"arpo-spare")
    os.environ.clear()
    os.environ.update(ONE_THREAD)
    sys.orig_argv = [""]
    tempfile.tempdir = None  # the helper's own, which the program can't use
    threads = os.open("/proc/self/task", os.O_RDONLY | os.O_DIRECTORY)
    listener = isolation.restrict(helper)
    if listener is not None:
        socket.send_fds(channel, [GATE], [listener, threads])
    _, descriptors, _, _ = socket.recv_fds(channel, 1, 2)
    if len(descriptors) != 2:
        os._exit(0)  # the helper has ended, or the tool was closed
    source, output = descriptors
    with os.fdopen(source, "rb", closefd=False) as file:
        program = file.read()
    os.dup2(output, 1)
    os.dup2(output, 2)
    renew_random_state()
    kernel.prctl(kernel.PR_SET_NAME, b"arpo-program")
    isolation.finalize()
    channel.send(READY)
    kernel.close_descriptors_from(3, MOST_HELPER_FILES)
    return program
