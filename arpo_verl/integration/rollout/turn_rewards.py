"""Calls the run's function of turn rewards, so that nothing that it does can lose a leaf or hold up a rollout."""

import asyncio
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from arpo_verl.config import ArpoConfig
from arpo_verl.named_parts import TURN_REWARDS, parameters_of, require_accepted
from arpo_verl.rollout.leaf_signals import checked_turn_values
from arpo_verl.rollout.tool_text import valid_text
from arpo_verl.rollout.tool_threads import run_in_thread, tool_loop
from arpo_verl.turn_rewards import LeafTurns

logger = logging.getLogger(__name__)

CAUSE_CHARACTERS = 300
"""Characters of a failure's cause that travel with the leaf; the log has all of it."""
THREADS = "turn rewards"
"""What the threads and the loop of the function are known by."""


@dataclass(frozen=True)
class TurnRewardFunction:
    """A shipped function of turn rewards, or the user's own, with its settings."""

    function: Callable[[LeafTurns], Any]
    max_seconds: float

    @classmethod
    def of(cls, arpo: ArpoConfig) -> "TurnRewardFunction | None":
        """Return the function that a run asks for, None where it asks for none.

        Raises:
            ValueError: it can't be found, or does not take its settings.
        """
        if arpo.turn_rewards is None:
            return None
        key = f"arpo.turn_rewards={arpo.turn_rewards}"
        function = TURN_REWARDS.find(arpo.turn_rewards, "arpo.turn_rewards")
        parameters = parameters_of(function, key)
        first = next(iter(parameters.values()), None)
        if first is None or first.kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD):
            raise ValueError(f"{key} takes {list(parameters)}; expected LeafTurns as its first argument: add it")
        named = {name: one for name, one in parameters.items() if one is not first}
        require_accepted(arpo.turn_reward_kwargs, named, {first.name}, "arpo.turn_reward_kwargs")
        return cls(partial(function, **arpo.turn_reward_kwargs), arpo.max_reward_seconds)

    async def of_leaf(self, leaf: LeafTurns) -> tuple[list[float | None] | None, str | None]:
        """Return the rewards of a leaf's turns, or None and why there are none; never raises for what the function did.

        A plain function runs in a thread of its own, a coroutine function in a loop of its own, and each is left behind
        at the limit: a function that never returns keeps its thread until the process ends.
        """
        try:
            values = await asyncio.wait_for(self._called(leaf), self.max_seconds)
            return checked_turn_values(values, len(leaf.turns)), None
        except asyncio.TimeoutError:
            cause = f"no answer within arpo.max_reward_seconds={self.max_seconds:g}"
            logger.error("the turn rewards of a leaf failed: %s; the leaf has none", cause)
        except Exception as error:  # whatever somebody else's function raises
            cause = f"{type(error).__name__}: {error}"
            logger.exception("the turn rewards of a leaf failed; the leaf has none")
        return None, valid_text(cause)[:CAUSE_CHARACTERS]

    async def _called(self, leaf: LeafTurns) -> Any:
        function = self.function

        async def run(returned: Any = None) -> Any:
            return await (function(leaf) if returned is None else returned)

        if inspect.iscoroutinefunction(function):
            return await tool_loop(THREADS).run(run)
        returned = await run_in_thread(THREADS, lambda: function(leaf))
        # A function that is not marked as a coroutine function may return a coroutine all the same.
        return await tool_loop(THREADS).run(partial(run, returned)) if inspect.isawaitable(returned) else returned
