"""The command line that starts the helper in namespaces of its own, by bubblewrap.

An extra layer where it works: most containers forbid it, and landlock and seccomp work without it. Inside there is no
other process, no network, and no file but those given; landlock and seccomp decide what children may do.
"""

import os


def bubblewrap_command(executable: str, readable: list[str]) -> list[str]:
    """Return the command line to which the command to run is appended.

    Args:
        executable: the path of `bwrap`.
        readable: files and directories that are there inside, under their own names, to be read.
    """
    # First what may hide others: an environment can lie in /tmp.
    command = [executable, "--unshare-all", "--die-with-parent", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    for path in _outermost(readable):
        command += ["--ro-bind", path, path]
    return [*command, "--remount-ro", "/"]


def _outermost(paths: list[str]) -> list[str]:
    """Return the paths that lie in none of the others, without devices, of which bubblewrap makes its own."""
    kept: list[str] = []
    for path in sorted(set(map(os.path.abspath, paths))):
        if not path.startswith("/dev/") and not any(path.startswith(f"{outer}/") for outer in kept):
            kept.append(path)
    return kept
