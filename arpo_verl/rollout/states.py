"""Copies of the state that tools keep for a leaf: made when a leaf forks, never shared between two leaves."""

import copy
import logging
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

logger = logging.getLogger(__name__)


class CannotForkError(RuntimeError):
    """A state can't be copied; the message says why."""


def forks(value: Any) -> bool:
    """Whether a value of a state makes its copies itself, by a method `fork` without arguments."""
    return not isinstance(value, type | ModuleType) and callable(getattr(value, "fork", None))


def copied(state: Mapping[str, Any], made: Callable[[Any], None] = lambda one: None) -> dict[str, Any]:
    """Return a copy of a state: by `fork()` of each value that has it, wherever it is referred to, else deep.

    Args:
        state: values by name.
        made: told each copy that a `fork()` has returned, before anything else can fail.

    Raises:
        CannotForkError: a `fork()` returned the value itself.
        Exception: whatever a `fork()` or the deep copy raised.
    """
    memo: dict[int, Any] = {}
    for name, value in state.items():
        if forks(value):
            one = value.fork()
            if one is value:
                raise CannotForkError(f"the state {name!r} returned itself from fork(); expected a copy of its own")
            made(one)
            memo[id(value)] = one
    return copy.deepcopy(dict(state), memo)


class DeepCopies:
    """The scheduler's `LeafStates` where nothing but memory has to be copied and nothing has to be closed."""

    async def fork(self, state: dict[str, Any]) -> dict[str, Any] | None:
        try:
            return copied(state)
        except Exception as error:  # whatever the copying of a tool's own objects raises
            logger.warning("a leaf can't be forked: its tools' state can't be copied: %r", error)
            return None

    def release(self, state: dict[str, Any]) -> None:
        """Do nothing."""


DEEP_COPIES = DeepCopies()
