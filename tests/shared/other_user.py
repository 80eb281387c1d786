"""What another user, without root's rights, sees."""

import os
from collections.abc import Callable

NOBODY = 65534


def without_root(action: Callable[[], str]) -> str:
    """Return what `action` returns in a process without root's rights. A fork: nobody may not read root's packages."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            answer = action()
        except BaseException as error:
            answer = repr(error)
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as lines:
        answer = lines.read()
    os.waitpid(child, 0)
    return answer
