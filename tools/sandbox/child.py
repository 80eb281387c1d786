"""From a fresh copy of the helper to a process that can run model code: one way, and nothing kept from the helper."""

import os
import signal
import socket
import tempfile
from dataclasses import dataclass
from typing import NoReturn

from . import kernel
from .program import renew_random_state, run_program
from .walls import Walls

MOST_HELPER_FILES = 4096
"""Descriptors of the helper, which a child closes."""

GATE, READY, FAILED = b"gate", b"ready", b"failed:"
"""What a child says to the helper before it runs the program; afterwards the channel is closed."""


@dataclass(frozen=True)
class Descriptors:
    """What a child inherits for its own use."""

    source: int
    """A file with the program, UTF-8."""
    output: int
    """Where it prints."""
    channel: socket.socket
    """To the helper."""


def run_child(descriptors: Descriptors, walls: Walls, helper: int) -> NoReturn:
    """Put up the walls, run the program and end the process."""
    try:
        source = _enter(descriptors, walls, helper)
    except BaseException as error:
        report = f"{type(error).__name__}: {error}".encode("utf-8", "replace")[:1000]
        descriptors.channel.send(FAILED + report)
        os._exit(1)
    run_program(source, walls.limits.memory_mb)
    os._exit(1)


def _enter(descriptors: Descriptors, walls: Walls, helper: int) -> bytes:
    """Put up the walls and return the program; no code of the model has run by then."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.setsid()
    with os.fdopen(descriptors.source, "rb", closefd=False) as file:
        source = file.read()
    os.dup2(descriptors.output, 1)
    os.dup2(descriptors.output, 2)
    renew_random_state()
    os.environ.clear()
    tempfile.tempdir = None  # the helper's own, which the program can't use
    listener = walls.enclose(helper)
    if listener is not None:
        socket.send_fds(descriptors.channel, [GATE], [listener])
    walls.seal()
    descriptors.channel.send(READY)
    kernel.close_descriptors_from(3, MOST_HELPER_FILES)
    return source
