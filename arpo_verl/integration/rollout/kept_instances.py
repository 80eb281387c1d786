"""Instances of tools that live as long as their leaf: made at its first call, forked with it, released at its end.

verl 0.9.1 makes and releases an instance for each call (`experimental/agent_loop/tool_agent_loop.py`, `_call_tool`), so
that a `BaseTool` can keep nothing under its instance id. A tool with a method `fork(instance_id)`, which returns the id
of an independent copy, keeps one for each leaf here. Tools with the same `instance_name` share it.
"""

import asyncio
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import uuid4

from verl.tools.base_tool import BaseTool

from arpo_tools import ArgumentError
from arpo_tools.redaction import redact
from arpo_verl.rollout.protocols import ToolAnswer
from arpo_verl.rollout.states import CannotForkError
from arpo_verl.rollout.tool_threads import tool_loop

logger = logging.getLogger(__name__)

RELEASE_SECONDS = 10.0
"""Time that the release of an instance may take before it is left behind."""

_ending: set["asyncio.Task[None]"] = set()
"""asyncio keeps no reference to a running task."""


class InstanceLostError(RuntimeError):
    """An instance can't be used any more, because it is not known what has happened to it."""


def keeps_instance(tool: Any) -> bool:
    """Whether a tool keeps one instance for each leaf."""
    return callable(getattr(tool, "fork", None))


async def run_for(tool: Any, start: Callable[[], Awaitable[Any]]) -> Any:
    """Await what a tool's method returns: where it can be left behind, unless the tool says that it blocks nothing."""
    if getattr(tool, "blocks_nothing", False) is True:
        return await start()
    return await tool_loop(str(tool.name)).run(start)


@dataclass(eq=False)
class Kept:
    """The instance of one tool, or of several that share it, in one leaf."""

    tool: BaseTool
    id: str | None = None
    lost: str = ""
    """Why it can't be used any more."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by a call: calls of one turn follow each other in their order."""


@dataclass(eq=False)
class LeafInstances:
    """The instances of one leaf, by the names that they are shared under."""

    kept: dict[str, Kept] = field(default_factory=dict)
    request_id: str = field(default_factory=lambda: uuid4().hex)
    """verl's id of the trajectory, as tools of this leaf see it."""
    bound: set[str] = field(default_factory=set)
    """Tools that have read `request_id`: what they keep under it can't be copied."""


class _Living:
    """The instances that have yet to be released, each of them once; used from the tools' threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tools: dict[tuple[str, str], BaseTool] = {}
        self._is_closed = False

    def add(self, tool: BaseTool, instance_id: Any) -> bool:
        """Take note of an instance; false when all have been released already.

        Raises:
            CannotForkError: it is no text, or the id of another living instance.
        """
        with self._lock:
            if not isinstance(instance_id, str) or (tool.name, instance_id) in self._tools:
                raise CannotForkError(
                    f"tool {tool.name!r} made the instance {instance_id!r}; expected an id that no other instance has"
                )
            if not self._is_closed:
                self._tools[tool.name, instance_id] = tool
            return not self._is_closed

    def take(self, tool: BaseTool, instance_id: str) -> bool:
        """Whether the instance has yet to be released; false from then on."""
        with self._lock:
            return self._tools.pop((tool.name, instance_id), None) is not None

    def close(self) -> list[tuple[BaseTool, str]]:
        """Return all that are left and take no more."""
        with self._lock:
            self._is_closed = True
            return [(tool, instance_id) for (_, instance_id), tool in self._tools.items()]


class KeptInstances:
    """The kept instances of one prompt's leaves. Each is released once: with its leaf, or at the latest by `close`."""

    def __init__(self) -> None:
        self._living = _Living()
        self._mine: set[asyncio.Task[None]] = set()

    async def call(
        self,
        tool: BaseTool,
        leaf: LeafInstances,
        create_kwargs: dict[str, Any],
        execute: Callable[[str], Awaitable[ToolAnswer]],
    ) -> ToolAnswer:
        """Answer a call by the leaf's instance, which the first call makes.

        Raises:
            InstanceLostError: an earlier call of the instance has raised or was cancelled.
            Exception: what the tool raised.
        """
        name = getattr(tool, "instance_name", tool.name)
        while True:
            kept = leaf.kept.setdefault(name, Kept(tool))
            async with kept.turn:
                if leaf.kept[name] is not kept:  # its making has failed while this call waited
                    continue
                if kept.lost:
                    raise InstanceLostError(f"its state is lost, because a call has failed: {kept.lost}")
                try:
                    answer: ToolAnswer = await run_for(tool, partial(self._answer, kept, create_kwargs, execute))
                except ArgumentError:
                    raise
                except BaseException as error:  # a cancellation too: the tool may be anywhere in its work
                    if kept.id is None:
                        leaf.kept[name] = Kept(tool)
                    else:
                        kept.lost = redact(f"{type(error).__name__}: {error}"[:500])
                    raise
                return answer

    async def _answer(
        self, kept: Kept, create_kwargs: dict[str, Any], execute: Callable[[str], Awaitable[ToolAnswer]]
    ) -> ToolAnswer:
        if kept.id is None:
            instance_id, _ = await kept.tool.create(create_kwargs=create_kwargs)
            await self._register(kept.tool, instance_id)
            kept.id = str(instance_id)
        return await execute(kept.id)

    async def _register(self, tool: BaseTool, instance_id: Any) -> None:
        if not self._living.add(tool, instance_id):
            await _released(tool, instance_id)
            raise CannotForkError("the rollout of this prompt is over")

    async def fork(self, leaf: LeafInstances, into: LeafInstances) -> None:
        """Add copies of a leaf's instances to those of another leaf.

        Raises:
            CannotForkError: one of them can't be copied.
            Exception: what a tool's `fork` raised.
        """
        if leaf.bound:
            raise CannotForkError(
                f"tools {sorted(leaf.bound)} read agent_data.request_id, and what they keep under it can't be copied: "
                f"give them a method `fork`, or `can_fork = True` where they keep nothing"
            )
        for name, kept in leaf.kept.items():
            if kept.lost:
                raise CannotForkError(f"the state of tool {name!r} is lost: {kept.lost}")
            if kept.id is not None:
                into.kept[name] = Kept(kept.tool, await run_for(kept.tool, partial(self._forked, kept.tool, kept.id)))

    async def _forked(self, tool: Any, instance_id: str) -> str:
        made = tool.fork(instance_id)
        if inspect.isawaitable(made):
            made = await made
        await self._register(tool, made)
        return str(made)

    def release(self, leaf: LeafInstances) -> None:
        """Release a leaf's instances; does not wait."""
        for kept in leaf.kept.values():
            if kept.id is not None:
                self._release(kept.tool, kept.id)

    def _release(self, tool: BaseTool, instance_id: str) -> None:
        if self._living.take(tool, instance_id):
            self.end(_ended(tool, instance_id))

    def end(self, work: Any) -> None:
        """Start what ends something; `close` waits for it."""
        task = asyncio.create_task(work)
        for tasks in (self._mine, _ending):
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def close(self) -> None:
        """Release what is left, and wait for all releases for a limited time."""
        for tool, instance_id in self._living.close():
            self._release(tool, instance_id)
        if self._mine:
            await asyncio.wait(set(self._mine), timeout=RELEASE_SECONDS + 1)


async def _ended(tool: BaseTool, instance_id: str) -> None:
    try:
        await asyncio.wait_for(run_for(tool, partial(_released, tool, instance_id)), RELEASE_SECONDS)
    except Exception as error:
        logger.error("tool %r could not release an instance: %s", tool.name, redact(repr(error)[:500]))


async def _released(tool: Any, instance_id: str) -> None:
    ended = tool.release(instance_id)
    if inspect.isawaitable(ended):
        await ended
