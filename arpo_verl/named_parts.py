"""Parts that are found by name, one file each in a folder of this package, or by the dotted path of the user's own.

A shipped file `<name>.py` has a function called `<name>`, or a class called so in CamelCase. Adding one is adding a
file: nothing else lists the names.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class NamedParts:
    """The parts in a folder of this package, such as all advantages. Knowing the names imports none of them."""

    folder: str
    """Folder under `arpo_verl`."""
    what: str
    """One of them in a message, such as `advantage`."""
    kind: Literal["function", "class"] = "function"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the shipped ones, in alphabetical order."""
        files = (Path(__file__).parent / self.folder).glob("*.py")
        return tuple(sorted(file.stem for file in files if not file.stem.startswith("_")))

    def shipped(self, name: object, key: str) -> Callable[..., Any]:
        """Return a shipped part.

        Args:
            name: one of `names`.
            key: what the user has set to it, for the message.

        Raises:
            ValueError: there is none of this name.
        """
        if name not in self.names:
            raise ValueError(f"{key}={name!r}; expected one of {', '.join(self.names)}: change it")
        attribute = str(name) if self.kind == "function" else str(name).title().replace("_", "")
        part: Callable[..., Any] = getattr(
            importlib.import_module(f"arpo_verl.{self.folder.replace('/', '.')}.{name}"), attribute
        )
        return part

    def find(self, name: str, key: str) -> Callable[..., Any]:
        """Return a shipped part, or the user's own by its dotted path.

        Args:
            name: one of `names`, or `my_package.module.function` or `my_package.module:function`.
            key: what the user has set to it, for the message.

        Raises:
            ValueError: there is none, or it is of another kind.
        """
        from arpo_tools.dotted_path import is_dotted, load  # imports much that `import verl` need not

        self.require_name(name, key)
        if not is_dotted(name):
            return self.shipped(name, key)
        own: Callable[..., Any] = load(name, f"{key}: the {self.what}")
        if not (isinstance(own, type) if self.kind == "class" else callable(own)):
            raise ValueError(f"{key}={name!r} is {own!r:.80}; expected a {self.kind}: correct the path")
        return own

    @property
    def _example(self) -> str:
        return f"my_module.{'My' + self.what.title() if self.kind == 'class' else 'my_' + self.what.replace(' ', '_')}"

    def require_name(self, name: str, key: str) -> None:
        """Check that a name is one of `names` or a dotted path, without importing what it names.

        Raises:
            ValueError: it is neither.
        """
        from arpo_tools.dotted_path import is_dotted

        if name not in self.names and not is_dotted(name):
            raise ValueError(
                f"{key}={name!r}; expected one of {', '.join(self.names)}, or the dotted path of a {self.kind} such as "
                f"{self._example}: change it"
            )


ADVANTAGES = NamedParts("advantages", "advantage")
LOSSES = NamedParts("losses", "loss")
REPLAY = NamedParts("replay", "source", "class")
RULES = NamedParts("rules", "rule", "class")
SERVERS = NamedParts("integration/serving/servers", "server", "class")
TURN_REWARDS = NamedParts("turn_rewards", "turn reward")


def parameters_of(function: Callable[..., Any], key: str) -> dict[str, inspect.Parameter]:
    """Return the parameters of a function by name, in order.

    Raises:
        ValueError: it does not say which ones it has.
    """
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{key}: the parameters of {function!r:.80} can't be told ({error}); expected a Python function: wrap it"
        ) from error


def require_accepted(
    given: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter], reserved: set[str], key: str
) -> None:
    """Check that a function takes every one of its settings.

    Args:
        given: the user's settings.
        parameters: of the function.
        reserved: parameters that are filled in otherwise.
        key: what the user has set, for the message.

    Raises:
        ValueError: one of them is not known.
    """
    takes_all = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    known = [name for name, one in parameters.items() if one.kind in named and name not in reserved]
    for name in given:
        if name in reserved or (name not in known and not takes_all):
            raise ValueError(f"{key}.{name} is not a known setting; expected one of {known}: correct its name")
