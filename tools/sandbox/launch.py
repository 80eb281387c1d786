"""Starts the helper process, inside bubblewrap if asked to."""

import contextlib
import importlib.util
import os
import site
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .bubblewrap import bubblewrap_command
from .limits import ONE_THREAD, ProgramLimits
from .plan import Plan

STOP_SECONDS = 5.0
"""Time that a helper has to end its children and itself before it is killed."""

PRELOADED = ("numpy", "sympy")
"""Libraries that most programs import."""

_PACKAGE = Path(__file__).parent

# The package under the name `sandbox`: importing `arpo_tools` would import every tool and what it needs.
# Python 3.10 puts the working directory first.
_START = (
    "import sys; folder = sys.argv.pop(1); sys.path = [path for path in sys.path if path] + [folder]; "
    "from sandbox.zygote import main; sys.path.remove(folder); main()"
)
_SYSTEM = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/nix/store"),
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime", "/usr/share/zoneinfo"),
    *("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"),
)


@dataclass
class HelperProcess:
    """A started helper process and our end of its socket."""

    process: subprocess.Popen[bytes]
    control: socket.socket
    errors: IO[bytes]
    """The file that its standard error goes to."""

    def stderr_tail(self) -> str:
        """Return the end of what it has written to its standard error, for a message."""
        with contextlib.suppress(OSError, ValueError):
            self.errors.seek(0)
            return self.errors.read()[-500:].decode("utf-8", "replace").strip()
        return ""

    def stop(self, grace_seconds: float = STOP_SECONDS) -> None:
        """Close the socket, which ends the helper and its children; kill it if it doesn't end; reap it."""
        self.control.close()
        self.errors.close()
        try:
            self.process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def make_plan(limits: ProgramLimits, isolation: str, libraries: Sequence[str] = PRELOADED) -> Plan:
    """Return the plan of a helper for this process's Python.

    Args:
        limits: of each call.
        isolation: see `Plan`.
        libraries: what is imported before programs start.
    """
    packages = [name.partition(".")[0] for name in libraries]
    folders = library_folders(packages)
    readable = readable_paths(folders, packages)
    return Plan(limits, isolation, folders, list(libraries), readable, parent=os.getpid())


def library_folders(packages: Sequence[str]) -> list[str]:
    """Return the folders in which a program finds its libraries: those that site-packages here would bring.

    `.pth` files are not followed, so an editable install is not found, and reading them would take longer than a call;
    the given packages are found wherever this process finds them.
    """
    folders = site.getsitepackages()
    if site.ENABLE_USER_SITE:
        folders.append(site.getusersitepackages())
    for name in packages:
        with contextlib.suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.submodule_search_locations:  # else a file of that name in a script's folder
                folders.append(str(Path(spec.submodule_search_locations[0]).parent))
    return [folder for folder in dict.fromkeys(folders) if os.path.isdir(folder)]


def readable_paths(folders: list[str], packages: Sequence[str]) -> list[str]:
    """Return what a program must be able to read: its Python, its libraries, and the system's shared objects."""
    standard = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib")]
    prefixes = [os.path.join(prefix, name) for prefix in (sys.base_prefix, sys.prefix) for name in ("lib", "lib64")]
    linked = []
    for name in packages:  # a package may be a link to somewhere else
        linked += [os.path.realpath(os.path.join(folder, name)) for folder in folders]
    # `platform` reads the executable.
    paths = [*standard, *prefixes, *folders, *linked, sys.executable, *_SYSTEM]
    both = [name for path in paths for name in (path, os.path.realpath(path))]  # bubblewrap makes no links
    return [path for path in dict.fromkeys(both) if os.path.exists(path)]


def start_helper(plan: Plan, bubblewrap: str | None) -> HelperProcess:
    """Start a helper; whether it works is known when it reports.

    Args:
        plan: see `make_plan`.
        bubblewrap: the path of `bwrap`, to start the helper inside it.

    Raises:
        OSError: the process can't be started.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - the helper's owner closes it
    python = os.path.realpath(sys.executable) if bubblewrap else sys.executable
    arguments = [str(_PACKAGE.parent), str(theirs.fileno()), plan.to_json()]
    # -S: reading every .pth file takes long, and they may run code. -u: what a program printed before a sudden end must
    # not wait in a buffer. Not -I, which takes no seed from the environment; that is ours alone.
    command = [python, "-s", "-S", "-B", "-u", "-c", _START, *arguments]
    if bubblewrap:
        command = bubblewrap_command(bubblewrap, [*plan.readable, python, str(_PACKAGE)]) + command
    try:
        with theirs:
            # Not asyncio's own: Ray runs its actors on uvloop, which forks to start a process, and a fork of a process
            # with threads can wait for ever for a lock that one of them held. subprocess uses vfork.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd="/",
                env=_environment(plan),
                start_new_session=True,
                pass_fds=[theirs.fileno()],
            )
    except BaseException:
        ours.close()
        errors.close()
        raise
    return HelperProcess(process, ours, errors)


def _environment(plan: Plan) -> dict[str, str]:
    """Return what Python and its libraries need to start, which programs don't see."""
    ours = {"PYTHONHASHSEED": plan.hash_seed, "PYTHONSAFEPATH": "1"}
    # Without the first, a Python that is linked to a library in an unusual place doesn't start.
    passed = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "TMPDIR") if name in os.environ}
    return ONE_THREAD | ours | passed
