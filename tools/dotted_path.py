"""Loads what somebody has written himself by its dotted path, `module.name` or `package.module.name`."""

import importlib
import os
from typing import Any


def is_dotted(name: str) -> bool:
    """Whether a name is a dotted path and none of the names that we know ourselves."""
    first, dot, last = name.rpartition(".")
    return bool(dot) and all(part.isidentifier() for part in [*first.split("."), last])


def load(path: str, what: str) -> Any:
    """Return what a dotted path names.

    Args:
        path: a module and a name in it, which has no dots.
        what: for the message, such as `search back-end`.

    Raises:
        ValueError: there is no such module, it can't be imported, or it has no such name.
    """
    module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        # Whatever a module of somebody else's raises when it is imported.
        raise ValueError(
            f"{what} {path!r}: the module {module_name!r} can't be imported ({type(error).__name__}: {error}); "
            f"expected a dotted path such as my_module.my_name: correct it, or put the module's folder on PYTHONPATH "
            f"in every process (PYTHONPATH={os.environ.get('PYTHONPATH', '')!r} here)"
        ) from error
    if not hasattr(module, name):
        public = [known for known in vars(module) if not known.startswith("_")]
        raise ValueError(
            f"{what} {path!r}: {module.__file__} has no {name!r}; expected one of its names, {', '.join(public)}: "
            f"correct it"
        )
    return getattr(module, name)
