"""Executes the calls of a leaf within its limits: calls of a tool, seconds of a call and of a leaf, calls in flight.

A call that ends as an infrastructure error is tried again. A call that is out of time is cancelled; one that does not
end when it is cancelled is left behind, so that no tool can stop a rollout. Every answer is text that can be encoded.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Any

from arpo_verl.config import ArpoConfig
from arpo_verl.rollout.protocols import ToolAnswer, ToolCall, Tools
from arpo_verl.rollout.tasks import Tasks, end_tasks
from arpo_verl.rollout.tool_text import valid_text
from arpo_verl.rollout.tree import INFRASTRUCTURE_ERROR, ExecutedCall, Leaf
from arpo_verl.rollout.watchdog import watchdog_of_this_process

logger = logging.getLogger(__name__)

NO_LIMIT: contextlib.AbstractAsyncContextManager[Any] = contextlib.nullcontext()
MODEL_ERROR, LIMIT, TIMEOUT = "model_error", "limit", "timeout"
"""Statuses of `arpo_tools.ToolStatus`."""
CANCELLATION_SECONDS = 1.0
"""Time that a cancelled call may take to end before it is left behind."""
FIRST_RETRY_SECONDS = 0.5
"""Mean wait before the first retry; each further one waits twice as long."""


@dataclass(frozen=True)
class CallExecutor:
    """The tools of a rollout, with the limits on their use."""

    tools: Tools
    config: ArpoConfig
    slot: contextlib.AbstractAsyncContextManager[Any]
    """A context that is held during a call; a semaphore bounds the calls in flight."""

    async def execute(self, leaf: Leaf, calls: list[ToolCall]) -> tuple[list[ToolAnswer], list[ExecutedCall]]:
        """Execute the calls of a turn at the same time and return answers and records in their order."""
        used = Counter(record.name for record in leaf.calls)
        tasks = Tasks()
        running = []
        try:
            for call in calls:
                used[call.name] += 1
                running.append(tasks.start(self._call(leaf, call, used[call.name])))
            await tasks.join()
        finally:
            await tasks.close(2 * CANCELLATION_SECONDS)
        results = [task.result() for task in running if task is not None]
        return [answer for answer, _ in results], [record for _, record in results]

    async def _call(self, leaf: Leaf, call: ToolCall, number: int) -> tuple[ToolAnswer, ExecutedCall]:
        """Answer one call, the `number`th of its tool in the leaf."""
        most = self.config.max_calls_per_tool.get(call.name)
        asked, waited = time.time(), 0.0
        if call.error is not None:
            answer, seconds, retries = ToolAnswer(call.error, MODEL_ERROR), 0.0, 0
        elif most is not None and number > most:
            text = f"Error: no call of '{call.name}' is left; at most {most} are allowed. Go on without it."
            answer, seconds, retries = ToolAnswer(text, LIMIT), 0.0, 0
        else:
            before = time.monotonic()
            async with self.slot:
                start = time.monotonic()
                waited = start - before
                answer, retries = await self._call_and_retry(leaf, call)
                seconds = time.monotonic() - start
        answer = replace(answer, text=valid_text(answer.text))
        record = ExecutedCall(
            name=call.name,
            status=answer.status,
            latency_seconds=seconds,
            reward=answer.reward,
            retries=retries,
            arguments=call.arguments,
            result=answer.text,
            started=asked,
            waited_seconds=waited,
            is_cached=answer.is_cached,
            cost=answer.cost,
        )
        return answer, record

    async def _call_and_retry(self, leaf: Leaf, call: ToolCall) -> tuple[ToolAnswer, int]:
        """Return the answer and the number of retries."""
        watchdog = watchdog_of_this_process(self.config.stuck_call_seconds)
        end = time.monotonic() + min(self.config.max_call_seconds, self.seconds_left(leaf))
        failure: ToolAnswer | None = None
        retry = 0
        with watchdog.watch(f"tool {call.name!r} on {str(call.arguments)[:200]!r}, leaf {leaf.path}"):
            while True:
                answer = await self._call_until(end, leaf, call)
                if answer is None:
                    return failure or self._timeout_answer(leaf, call), retry
                pause = FIRST_RETRY_SECONDS * 2**retry * random.uniform(0.5, 1.5)
                is_last = retry == self.config.infrastructure_retries or time.monotonic() + pause >= end
                if answer.status != INFRASTRUCTURE_ERROR or is_last:
                    return answer, retry
                failure = answer
                await asyncio.sleep(pause)
                retry += 1

    async def _call_until(self, end: float, leaf: Leaf, call: ToolCall) -> ToolAnswer | None:
        """Make the call, unless there is no time for it; return None where it has not been answered in time."""
        seconds = end - time.monotonic()
        if seconds <= 0:
            return None
        answering = _as_answer(call, self.tools.execute(call, leaf.tool_state, leaf.messages))
        try:
            return await _wait_at_most(seconds, answering)
        except _CancelledByItself:
            return _aborted_answer(call, "CancelledError")

    def _timeout_answer(self, leaf: Leaf, call: ToolCall) -> ToolAnswer:
        """Return the answer to a call that timed out: a leaf without time left is no infrastructure failure."""
        if self.seconds_left(leaf) <= 0:
            return ToolAnswer(f"Error: no time is left for '{call.name}'.", TIMEOUT)
        limit = self.config.max_call_seconds
        logger.warning("tool %r gave no answer in %g s", call.name, limit)
        return ToolAnswer(f"Error: '{call.name}' gave no answer in {limit:g} s.", INFRASTRUCTURE_ERROR)

    def seconds_left(self, leaf: Leaf) -> float:
        """Return the time that a leaf has left; infinity without `arpo.max_leaf_seconds`."""
        limit = self.config.max_leaf_seconds
        return float("inf") if limit is None else limit - (time.monotonic() - leaf.started)


class _CancelledByItself(Exception):
    """A call ended as cancelled although nobody has cancelled it."""


async def _as_answer(call: ToolCall, answering: Coroutine[Any, Any, ToolAnswer]) -> ToolAnswer:
    """Answer a call that raises SystemExit or the like, which would end the event loop if it left the task."""
    try:
        return await answering
    except (Exception, asyncio.CancelledError):
        raise
    except BaseException as error:
        return _aborted_answer(call, type(error).__name__)


def _aborted_answer(call: ToolCall, error: str) -> ToolAnswer:
    logger.error("tool %r raised %s; expected an answer or an error", call.name, error)
    return ToolAnswer(f"Error executing tool {call.name!r}: it raised {error}", INFRASTRUCTURE_ERROR)


async def _wait_at_most(seconds: float, answering: Coroutine[Any, Any, ToolAnswer]) -> ToolAnswer | None:
    """Return the answer, or None if there is none in time. `asyncio.wait_for` would wait for a call that goes on.

    Raises:
        _CancelledByItself: the call raised CancelledError.
    """
    task = asyncio.ensure_future(answering)
    try:
        await asyncio.wait({task}, timeout=seconds)
        if task.cancelled():
            raise _CancelledByItself
        return task.result() if task.done() else None
    finally:  # also where the leaf itself is cancelled
        await end_tasks({task}, CANCELLATION_SECONDS)
