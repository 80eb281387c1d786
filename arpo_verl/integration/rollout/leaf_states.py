"""The states of verl's tools in a leaf: what they keep in `agent_data.extra_fields`, and their kept instances.

A copy for a fork is made by the values' own `fork()`, by the tools' `fork(instance_id)`, and deep for the rest. What
can't be copied stops the branching below it; nothing is ever shared.
"""

import asyncio
import logging
import threading
from functools import partial
from typing import Any

from verl.experimental.agent_loop.tool_agent_loop import AgentData

from arpo_tools.redaction import redact
from arpo_verl.integration.rollout.kept_instances import RELEASE_SECONDS, KeptInstances, LeafInstances
from arpo_verl.rollout.states import copied, forks
from arpo_verl.rollout.tool_threads import run_in_thread

logger = logging.getLogger(__name__)

INSTANCES = "arpo_instances"
"""Key of a leaf's state, which is otherwise the tools' own: its `LeafInstances`."""
MOST_REASONS = 100
"""Reasons for which nothing forks that are remembered as logged."""
_logged: set[str] = set()


def instances_of(state: dict[str, Any]) -> LeafInstances:
    """Return the kept instances of a leaf."""
    own: LeafInstances = state.setdefault(INSTANCES, LeafInstances())
    return own


class LeafData(AgentData):
    """What verl hands to a tool, with the leaf's state as `extra_fields`."""

    def __init__(self, state: dict[str, Any], tool: Any, **fields: Any) -> None:
        """
        Args:
            state: the leaf's.
            tool: the one that gets this.
            fields: verl's.
        """
        super().__init__(
            image_data=[], video_data=[], audio_data=None, mm_processor_kwargs=None, metrics={}, request_id="", **fields
        )
        self.extra_fields = state
        self._tool = tool

    @property
    def request_id(self) -> str:
        """An id of the leaf's own. A tool that reads it may keep things under it, which no fork would have."""
        own = instances_of(self.extra_fields)
        if getattr(self._tool, "can_fork", None) is not True:
            own.bound.add(self._tool.name)
        return own.request_id

    @request_id.setter
    def request_id(self, value: str) -> None:
        """Leave it as it is: verl's constructor sets one."""


class _Attempt:
    """What a copy is made of, so that it can be closed if the copy fails or comes too late."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: list[Any] = []
        self._is_abandoned = False
        self.instances = LeafInstances()

    def add(self, value: Any) -> None:
        """Take note of a value's copy; called in the thread that copies."""
        with self._lock:
            is_late = self._is_abandoned
            self._values.append(value)
        if is_late:
            _close(value)

    def abandon(self) -> list[Any]:
        """Return the values to close; later ones are closed as they come."""
        with self._lock:
            self._is_abandoned = True
            return list(self._values)


class VerlStates:
    """The scheduler's `LeafStates` of one prompt. `close` ends what no leaf has ended."""

    def __init__(self, seconds: float) -> None:
        """
        Args:
            seconds: that a copy may take.
        """
        self.kept = KeptInstances()
        self._seconds = seconds
        self._living: dict[int, dict[str, Any]] = {}
        """The states that have yet to be ended, by their ids."""

    def begin(self, state: dict[str, Any]) -> None:
        """Take note of a state that a tool may put something into."""
        self._living[id(state)] = state

    async def fork(self, state: dict[str, Any]) -> dict[str, Any] | None:
        attempt = _Attempt()
        try:
            new = await asyncio.wait_for(self._copy(state, attempt), self._seconds)
        except asyncio.CancelledError:
            self._abandon(attempt)
            raise
        except Exception as error:
            self._abandon(attempt)
            reason = "it took too long" if isinstance(error, asyncio.TimeoutError) else redact(repr(error)[:1000])
            _log(f"a leaf can't be forked: its tools' state can't be copied: {reason}")
            return None
        self.begin(new)
        return new

    async def _copy(self, state: dict[str, Any], attempt: _Attempt) -> dict[str, Any]:
        rest = {name: value for name, value in state.items() if name != INSTANCES}
        new: dict[str, Any] = {}
        if rest:  # whatever is in there: its copying may block
            new = await run_in_thread("state", partial(copied, rest, attempt.add))
        if INSTANCES in state:
            await self.kept.fork(state[INSTANCES], attempt.instances)
            new[INSTANCES] = attempt.instances
        return new

    def _abandon(self, attempt: _Attempt) -> None:
        self.kept.release(attempt.instances)
        for value in attempt.abandon():
            self.kept.end(_closed(value))

    def release(self, state: dict[str, Any]) -> None:
        if self._living.pop(id(state), None) is None:
            return
        for name, value in state.items():
            if name == INSTANCES:
                self.kept.release(value)
            elif forks(value):
                self.kept.end(_closed(value))

    async def close(self) -> None:
        """End all states that are left, and wait for a limited time."""
        for state in list(self._living.values()):
            self.release(state)
        await self.kept.close()


def _close(value: Any) -> None:
    close = getattr(value, "close", None)
    if callable(close):
        close()


async def _closed(value: Any) -> None:
    try:
        await asyncio.wait_for(run_in_thread("state", partial(_close, value)), RELEASE_SECONDS)
    except Exception as error:
        logger.error("the state of a tool could not be closed: %s", redact(repr(error)[:500]))


def _log(reason: str) -> None:
    """Log why nothing forks, once for each reason; the number is in the metrics (`arpo/fork_limit`)."""
    if reason not in _logged:
        if len(_logged) >= MOST_REASONS:
            _logged.clear()
        _logged.add(reason)
        logger.warning("%s; nothing branches below that call", reason)
