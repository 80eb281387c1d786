"""A plain user beside root: which Python it may start, and a place where it can read what tests give it."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest

import arpo_tools

PLAIN_USER = 54321
LIBRARIES = ("numpy", "numpy.libs", "sympy", "mpmath")
PLACES = (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm")


def as_user(user: int) -> list[str]:
    """Return the beginning of a command that another user is to run."""
    if user == os.geteuid():
        return []
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]


def skip_unless_possible(user: int) -> None:
    if user == 0 and os.geteuid() != 0:
        pytest.skip("the tests don't run as root")
    if user != os.geteuid() and not shutil.which("setpriv"):
        pytest.skip("setpriv, by which root becomes a plain user, is not installed")


def python_for(user: int) -> str:
    """Return a Python that the user may start, or skip: this one may lie in root's home."""
    if user == os.geteuid():
        return sys.executable
    # Twice, as setpriv itself may still start what the user may not.
    code = (
        "import subprocess, sys; assert sys.version_info >= (3, 10); subprocess.check_call([sys.executable, '-c', ''])"
    )
    for python in (sys.executable, "/usr/bin/python3"):
        command = [*as_user(user), python, "-c", code]
        if subprocess.run(command, cwd="/", capture_output=True, check=False).returncode == 0:
            return python
    pytest.skip(f"user {user} may start no Python from 3.10 on: {sys.executable} lies in a private folder")


def public_folder(user: int, prefix: str) -> Path:
    """Make a folder that the user may enter, or skip."""
    for place in dict.fromkeys(PLACES):
        if not os.access(place, os.W_OK):
            continue
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
        folder.chmod(0o755)
        if can_read(user, folder):
            return folder
        folder.rmdir()
    pytest.skip(f"user {user} may enter none of {', '.join(PLACES)}")


def can_read(user: int, path: Path) -> bool:
    command = [*as_user(user), "test", "-r", str(path), "-a", "(", "!", "-d", str(path), "-o", "-x", str(path), ")"]
    return subprocess.run(command, check=False).returncode == 0


def copy_packages(packages: Path, user: int, python: str) -> str:
    """Copy what a user needs to run our tools there, and return its PYTHONPATH.

    The checkout, and the environment with NumPy, may lie in a home that no other user can read.
    """
    packages.mkdir()
    copy_package("arpo_tools", Path(arpo_tools.__file__).parent, packages)
    installed = Path(sysconfig.get_path("purelib"))
    if python != sys.executable and _version(python) != _version(sys.executable):
        return str(packages)  # another Python can't use them
    if can_read(user, installed / "numpy" / "__init__.py"):
        return f"{packages}:{installed}"
    for library in LIBRARIES:
        if (installed / library).is_dir():
            copy_package(library, installed / library, packages)
    return str(packages)


def copy_package(name: str, package: Path, packages: Path) -> None:
    """Copy a package so that every user can read it."""
    copy = packages / name
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__", "tests"))
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _version(python: str) -> bytes:
    return subprocess.check_output([python, "-c", "import sys; print(sys.version_info[:2])"])
