"""Loads a user's own class or function by its dotted path: `module.name`, `package.module.name` or `module:name`."""

import importlib
import os
from typing import Any


def is_dotted(name: str) -> bool:
    """Tell whether a name is a dotted path, as opposed to one of the built-in names."""
    module_name, attribute = _split(name)
    return bool(module_name) and all(part.isidentifier() for part in [*module_name.split("."), attribute])


def _split(path: str) -> tuple[str, str]:
    """Return the module and the name in it, as the last colon or else the last dot parts them."""
    module_name, _, attribute = path.rpartition(":" if ":" in path else ".")
    return module_name, attribute


def load(path: str, what: str) -> Any:
    """Return what a dotted path names.

    Args:
        path: a module and a name in it, which has no dots.
        what: for the message, such as `search back-end`.

    Raises:
        ValueError: there is no such module, it can't be imported, or it has no such name.
    """
    module_name, name = _split(path)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        # A user's module may raise anything when it is imported.
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
