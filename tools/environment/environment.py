"""The interface of an environment, and what it shows."""

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Observation:
    """What an environment shows after a step, or at its start."""

    text: str
    reward: float = 0.0
    """Of this step."""
    is_over: bool = False
    """Whether no further step can be made."""


class Environment(Protocol):
    """A world that a text can act in. Its methods may block; one object is used by one episode alone.

    Beside these two methods it may have `fork(self)`, which returns an independent environment in the same state, and
    `close(self)`, which is called once. `step` raises `arpo_tools.ArgumentError` for what is no action, and has changed
    nothing then.
    """

    def reset(self, seed: int | None, /) -> "Observation | str":
        """Begin an episode: the same seed begins the same one."""
        ...

    def step(self, action: str, /) -> "Observation | str":
        """Act."""
        ...


def observed(shown: Any) -> Observation:
    """Return what an environment has returned as an observation; a text alone has no reward and goes on.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(shown, str):
        return Observation(shown)
    if not isinstance(shown, Observation):
        raise TypeError(f"the environment returned {type(shown).__name__}; expected an Observation or a text")
    return shown
