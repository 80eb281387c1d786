"""Gymnasium's environments as text: those with an `ansi` rendering, or with texts as observations (extra `gymnasium`).

Actions go by their names, or by their numbers. Copies are deep, the state of the random numbers included: two branches
that do the same see the same.
"""

import re
from collections.abc import Sequence
from typing import Any

import gymnasium

from arpo_tools.environment.environment import Observation
from arpo_tools.tool import ArgumentError

ACTIONS = {
    "FrozenLake": ("left", "down", "right", "up"),
    "CliffWalking": ("up", "right", "down", "left"),
    "Taxi": ("south", "north", "east", "west", "pickup", "dropoff"),
    "Blackjack": ("stick", "hit"),
}
"""Names of the numbered actions of gymnasium's toy texts, by its name of the environment, in their order."""
_HIGHLIGHTED = re.compile(r"\x1b\[[\d;]*m(.)\x1b\[0m")
_LAST_ACTION = re.compile(r"^\s*\(\w+\)\s*\n?", re.MULTILINE)


class Gymnasium:
    """An environment of gymnasium's registry."""

    def __init__(self, id: str, actions: Sequence[str] | None = None, **options: Any) -> None:
        """
        Args:
            id: its name there, such as `FrozenLake-v1`.
            actions: names of the actions in their order; None for those of `ACTIONS`, or else the numbers.
            options: what `gymnasium.make` takes, such as `is_slippery`.

        Raises:
            ValueError: its actions are neither numbered nor texts, or `actions` are not as many.
            gymnasium.error.Error: there is no such environment.
        """
        environment = gymnasium.make(id, **options)
        if "render_mode" not in options and "ansi" in environment.metadata.get("render_modes", ()):
            environment.close()
            environment = gymnasium.make(id, render_mode="ansi", **options)
        self._environment = environment
        space: Any = environment.action_space
        self._takes_text = isinstance(space, gymnasium.spaces.Text)
        if not self._takes_text and not isinstance(space, gymnasium.spaces.Discrete):
            environment.close()
            raise ValueError(f"{id} has the actions {space}; expected numbered ones (Discrete) or texts (Text)")
        name = environment.spec.name if environment.spec is not None else id
        self._first = 0 if self._takes_text else int(space.start)
        count = 0 if self._takes_text else int(space.n)
        self.actions = list(actions or ACTIONS.get(name) or [str(self._first + number) for number in range(count)])
        if not self._takes_text and len(self.actions) != count:
            environment.close()
            raise ValueError(f"actions={self.actions} of {id}; expected {count} names: give as many")
        does = "Its actions are texts." if self._takes_text else f"Actions: {', '.join(self.actions)}."
        self.description = f"Acts in the world {id} and shows what is seen then. {does}"

    def reset(self, seed: int | None) -> Observation:
        """Begin an episode."""
        shown, _ = self._environment.reset(seed=seed)
        return Observation(self._text(shown))

    def step(self, action: str) -> Observation:
        """Make a step.

        Raises:
            ArgumentError: it is no action.
        """
        shown, reward, terminated, truncated, _ = self._environment.step(self._action(action))
        return Observation(self._text(shown), float(reward), bool(terminated or truncated))

    def _action(self, text: str) -> Any:
        if self._takes_text:
            return text
        word = text.strip().strip("\"'.").lower()
        names = [name.lower() for name in self.actions]
        numbers = [str(self._first + number) for number in range(len(names))]
        for known in (names, numbers):
            if word in known:
                return self._first + known.index(word)
        raise ArgumentError(f"{text.strip()[:100]!r} is no action; expected one of {', '.join(self.actions)}.")

    def _text(self, shown: Any) -> str:
        environment: Any = self._environment
        if isinstance(shown, str):
            return shown
        if environment.spec is not None and environment.spec.name == "Taxi":
            return _taxi(environment.unwrapped.decode(shown))
        if environment.render_mode == "ansi":
            return _LAST_ACTION.sub("", _HIGHLIGHTED.sub(r"[\1]", str(environment.render()))).strip("\n")
        return str(shown)

    def close(self) -> None:
        """Close it."""
        self._environment.close()


def _taxi(decoded: Any) -> str:
    """Describe the state of the taxi's world, whose drawing tells passenger and destination by colours alone."""
    row, column, passenger, destination = decoded
    stands = ("R at row 0, column 0", "G at row 0, column 4", "Y at row 4, column 0", "B at row 4, column 3")
    rider = "is in the taxi" if passenger == len(stands) else f"waits at {stands[passenger]}"
    return (
        f"The taxi is at row {row}, column {column}. The passenger {rider} and wants to {stands[destination]}. "
        f"Rows grow to the south, columns to the east."
    )
