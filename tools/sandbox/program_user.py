"""The user that the helper runs as, so that programs can read Python and its libraries without any privilege.

They have those of the user who started the helper. Root is one without its capabilities, to whom another user's private
home is closed: where Python or its libraries lie there, the helper, still root, becomes their owner. Where they lie in
private places of several users, no one can read them all; then what most programs need decides, and the rest is named.
"""

import contextlib
import errno
import json
import os
from typing import NamedTuple

from . import kernel, limits
from .plan import Plan


class User(NamedTuple):
    """A user to become, with the group of what it owns and no other."""

    number: int
    group: int


class NoProgramUser(OSError):
    """No user can read Python's own library without privileges."""


def become_program_user(plan: Plan) -> list[str]:
    """If this process is root, become a user who can read Python and its libraries; return what still can't be read.

    Afterwards the process has still to give up its capabilities.

    Raises:
        NoProgramUser: Python's own library can't be read.
    """
    if os.geteuid() != 0:
        return []
    standard, *libraries = _needed_paths(plan)
    blocked: dict[User | None, list[str]] = {None: _unreadable_by(None, [standard, *libraries])}
    if not blocked[None]:
        return []
    blocked |= {owner: _unreadable_by(owner, [standard, *libraries]) for owner in _owners(blocked[None])}
    chosen = min(blocked, key=lambda user: (standard in blocked[user], len(blocked[user])))
    if standard in blocked[chosen]:
        raise NoProgramUser(
            errno.EACCES,
            f"{standard} can't be read without root's privileges, which programs must not have, and this process can "
            f"become no user who can: let all users read it (chmod o+rX on it and on the folders above), or run as its "
            f"owner",
        )
    if chosen is not None:
        _become(chosen)
    return [path for path in blocked[chosen] if not any(path.startswith(f"{above}/") for above in blocked[chosen])]


def _needed_paths(plan: Plan) -> list[str]:
    """Return Python's own library, the folders of libraries, and in them those that are wanted by name."""
    packages = {name.partition(".")[0] for name in plan.libraries}
    named = [os.path.join(folder, name) for folder in plan.library_folders for name in sorted(packages)]
    inside = [path for package in named for path in (package, os.path.join(package, "__init__.py"))]
    return [os.path.dirname(os.__file__), *plan.library_folders, *filter(os.path.exists, inside)]


def _unreadable_by(user: User | None, paths: list[str]) -> list[str]:
    """Return the paths that a user can't read, or root without capabilities; all of them if that can't be tried."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(OSError):
            if user is not None:
                _become(user)
            limits.drop_privileges()
            unreadable = [path for path in paths if not os.access(path, os.R_OK | os.X_OK * os.path.isdir(path))]
            os.write(write_end, json.dumps(unreadable).encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as file:
        answer = file.read()
    os.waitpid(pid, 0)
    return list(json.loads(answer)) if answer else paths


def _owners(paths: list[str]) -> list[User]:
    """Return who owns the paths and the folders above them, but root."""
    found: dict[User, None] = {}
    for path in paths:
        while path != os.path.dirname(path):
            status = os.stat(path)
            found[User(status.st_uid, status.st_gid)] = None
            path = os.path.dirname(path)
    return [user for user in found if user.number != 0]


def _become(user: User) -> None:
    os.setgroups([])
    os.setresgid(user.group, user.group, user.group)
    os.setresuid(user.number, user.number, user.number)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # or its own files in /proc would be root's
