"""A kind of environment with its options: where episodes come from."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from arpo_tools.dotted_path import is_dotted, load
from arpo_tools.environment.environment import Environment
from arpo_tools.environment.episode import Branching, Episode


@dataclass(frozen=True)
class World:
    """Begins episodes."""

    kind: Callable[..., Environment]
    options: dict[str, Any] = field(default_factory=dict)
    """The arguments of `kind`."""
    seed: int = 0
    branching: Branching = Branching.AUTO

    def begin(self, seed: int | None = None, **options: Any) -> Episode:
        """Begin an episode.

        Args:
            seed: of the episode; None is the world's.
            options: further arguments of the environment, before the world's own.
        """
        make = partial(self.kind, **{**self.options, **options})
        return Episode(make, self.seed if seed is None else seed, self.branching)


def open_world(environment: str, seed: int = 0, branching: str = "auto", **options: Any) -> World:
    """Return the world of an environment, of which one is made and closed again.

    Args:
        environment: `gymnasium`, or the dotted path of a class with `reset` and `step`.
        seed: of episodes that have none of their own.
        branching: one of `Branching`.
        options: the arguments of the environment.

    Raises:
        ValueError: there is no such environment, or it can't be made with these options.
    """
    if branching not in list(Branching):
        raise ValueError(f"branching={branching!r}; expected one of {', '.join(Branching)}: correct it")
    world = World(_kind(environment), options, seed, Branching(branching))
    try:
        world.begin().close()
    except Exception as error:  # of a user's own class, or of a world of a registry
        raise ValueError(
            f"environment={environment!r}: no episode can be begun with the options {options} and the seed {seed}: "
            f"{type(error).__name__}: {error}; expected a start: correct them"
        ) from error
    return world


def _kind(environment: str) -> Callable[..., Environment]:
    if environment == "gymnasium":
        try:
            from arpo_tools.environment.gymnasium_text import Gymnasium
        except ModuleNotFoundError as error:
            raise ValueError(
                f"environment=gymnasium needs the package {error.name}; expected the extra: pip install "
                f"'arpo-verl[gymnasium]'"
            ) from error
        return Gymnasium
    if not is_dotted(environment):
        raise ValueError(
            f"environment={environment!r}; expected gymnasium, or a dotted path such as my_worlds.Lake: correct it"
        )
    kind: Callable[..., Environment] = load(environment, "environment")
    missing = [name for name in ("reset", "step") if not callable(getattr(kind, name, None))]
    if missing:
        raise ValueError(f"environment {environment!r} has no {' and no '.join(missing)}; expected both methods")
    return kind
