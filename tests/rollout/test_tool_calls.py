"""The limits on a leaf's tool calls: calls of a tool, seconds of a call and of a leaf, retries, and the watchdog."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import pytest
from fakes import END, Collector, ScriptedEngine, continued, ids, syntax, text

from arpo_verl.config import ArpoConfig
from arpo_verl.rollout import calls, watchdog
from arpo_verl.rollout.leaf_record import LeafRecord
from arpo_verl.rollout.metrics import tree_metrics
from arpo_verl.rollout.protocols import ToolAnswer, ToolCall
from arpo_verl.rollout.scheduler import PromptRollout
from arpo_verl.rollout.tree import Leaf, StopReason
from arpo_verl.rollout.turns import RolloutServices, RolloutSettings
from arpo_verl.rules import build_rule

CALL, SEARCH = "<python>1+1</python>", "<search>two</search>"


class Tools:
    """Answers by a coroutine function of the call and of how many calls came before it."""

    def __init__(self, answer: Callable[[ToolCall, int], Awaitable[ToolAnswer]]) -> None:
        self.answer = answer
        self.calls: list[str] = []

    async def execute(self, call, state, messages) -> ToolAnswer:
        self.calls.append(call.name)
        return await self.answer(call, len(self.calls) - 1)

    def can_fork(self, name: str) -> bool:
        return True


def grow(answer, *turns: str, leaves: int = 1, **knobs) -> tuple[list[Leaf], Tools]:
    """Grow leaves that write `turns` between results, and return them with the tools that they have called."""
    collector, tools = Collector(), Tools(answer)
    engine = ScriptedEngine(lambda context: continued(context, *turns))
    size = RolloutSettings(ids("Q:"), leaves, 2000, vocabulary_size=100, seed="s")
    services = RolloutServices(engine, tools, syntax(), collector)
    config = ArpoConfig(initial_rollouts=leaves, **knobs)
    asyncio.run(PromptRollout(size, config, build_rule(config), services).run())
    return collector.leaves, tools


async def two(call: ToolCall, number: int) -> ToolAnswer:
    return ToolAnswer("2", "ok")


async def never(call: ToolCall, number: int) -> ToolAnswer:
    await asyncio.sleep(3600)
    raise AssertionError("nobody waits for an hour")


def statuses(leaf: Leaf) -> list[str]:
    return [call.status for call in leaf.calls]


def test_a_call_beyond_its_tools_limit_is_answered_by_an_error_and_not_executed():
    [leaf], tools = grow(two, CALL, CALL, SEARCH, CALL, f"2{END}", max_calls_per_tool={"python": 1})
    assert tools.calls == ["python", "search"]
    assert statuses(leaf) == ["ok", "limit", "ok", "limit"]
    assert "Error: no call of 'python' is left; at most 1 are allowed. Go on without it." in text(leaf.token_ids)
    assert leaf.stop_reason is StopReason.COMPLETED


def test_a_tool_without_a_limit_has_that_of_all_calls_together():
    [leaf], tools = grow(two, CALL, CALL, CALL, f"2{END}", max_calls_per_tool={"search": 1}, max_tool_calls=2)
    assert tools.calls == ["python", "python"]
    assert leaf.stop_reason is StopReason.TOOL_LIMIT


def test_a_call_out_of_time_is_cancelled_and_the_leaf_goes_on():
    [leaf], _ = grow(never, CALL, f"nothing{END}", max_call_seconds=0.1)
    # The tool should have kept a limit of its own, so the model is not to blame.
    assert statuses(leaf) == ["infrastructure_error"]
    assert 0.1 <= leaf.calls[0].latency_seconds < 1.0
    assert "Error: 'python' gave no answer in 0.1 s." in text(leaf.token_ids)
    assert leaf.stop_reason is StopReason.COMPLETED


def test_a_call_that_ignores_its_cancellation_is_left_behind(monkeypatch):
    monkeypatch.setattr(calls, "CANCELLATION_SECONDS", 0.1)

    async def stubborn(call: ToolCall, number: int) -> ToolAnswer:
        for _ in range(20):
            try:
                await asyncio.sleep(0.1)
            except asyncio.CancelledError:
                continue
        return ToolAnswer("too late", "ok")

    start = time.monotonic()
    [leaf], _ = grow(stubborn, CALL, f"nothing{END}", max_call_seconds=0.1)
    assert statuses(leaf) == ["infrastructure_error"]
    assert leaf.calls[0].latency_seconds < 1.0
    # asyncio.run itself waits for the task at the end; the leaf did not.
    assert time.monotonic() - start < 5.0


def test_a_failure_of_the_infrastructure_is_tried_again_and_then_no_fault():
    async def fails_once(call: ToolCall, number: int) -> ToolAnswer:
        return ToolAnswer("2", "ok") if number else ToolAnswer("Error: no connection", "infrastructure_error")

    [leaf], tools = grow(fails_once, CALL, f"2{END}")
    assert tools.calls == ["python", "python"]
    assert statuses(leaf) == ["ok"]
    assert leaf.calls[0].retries == 1
    assert leaf.faults == set()
    assert tree_metrics({"p": [LeafRecord.from_leaf(leaf, 1)]})["tools/python/retries"] == 1


@pytest.mark.parametrize(("status", "calls_made"), [("infrastructure_error", 3), ("refused", 1), ("budget", 1)])
def test_a_failure_that_stays_marks_the_leaf_and_only_what_may_pass_is_tried_again(monkeypatch, status, calls_made):
    monkeypatch.setattr(calls, "FIRST_RETRY_SECONDS", 0.01)

    async def fails(call: ToolCall, number: int) -> ToolAnswer:
        return ToolAnswer("Error", status)

    [leaf], tools = grow(fails, CALL, f"2{END}", infrastructure_retries=2)
    assert len(tools.calls) == calls_made
    assert leaf.faults == {"infrastructure"}
    record = LeafRecord.from_leaf(leaf, 1, ArpoConfig().exclude)
    assert record.is_excluded
    assert tree_metrics({"p": [record]})["tools/infrastructure_fraction"] == 1.0


@pytest.mark.parametrize("status", ["model_error", "timeout", "limit", "empty"])
def test_a_fault_of_the_models_is_neither_tried_again_nor_excluded(status):
    async def fails(call: ToolCall, number: int) -> ToolAnswer:
        return ToolAnswer("Error", status)

    [leaf], tools = grow(fails, CALL, f"2{END}", infrastructure_retries=2)
    assert len(tools.calls) == 1
    assert not LeafRecord.from_leaf(leaf, 1, ArpoConfig().exclude).is_excluded


def test_retries_end_with_the_calls_time(monkeypatch):
    monkeypatch.setattr(calls, "FIRST_RETRY_SECONDS", 0.05)

    async def fails(call: ToolCall, number: int) -> ToolAnswer:
        await asyncio.sleep(0.1)
        return ToolAnswer("Error", "infrastructure_error")

    [leaf], tools = grow(fails, CALL, f"2{END}", infrastructure_retries=50, max_call_seconds=0.5)
    assert 2 <= len(tools.calls) <= 5
    assert leaf.calls[0].latency_seconds < 1.0


def test_a_retry_that_hangs_leaves_the_failure_that_it_was_to_mend(monkeypatch):
    monkeypatch.setattr(calls, "FIRST_RETRY_SECONDS", 0.01)

    async def fails_and_hangs(call: ToolCall, number: int) -> ToolAnswer:
        return await never(call, number) if number else ToolAnswer("Error: no connection", "infrastructure_error")

    [leaf], tools = grow(fails_and_hangs, CALL, f"2{END}", max_call_seconds=0.3)
    assert len(tools.calls) == 2
    assert "Error: no connection" in text(leaf.token_ids)
    assert leaf.faults == {"infrastructure"}


async def test_a_call_without_time_is_not_made():
    tools = Tools(two)
    executor = calls.CallExecutor(tools, ArpoConfig(max_leaf_seconds=1.0), calls.NO_LIMIT)
    leaf = Leaf(number=0, path="0", request_id="r", started=time.monotonic() - 2.0)
    [answer], _ = await executor.execute(leaf, [ToolCall("python", "1+1")])
    assert (answer.status, tools.calls) == ("timeout", [])


async def test_a_cancelled_leaf_waits_for_its_call_to_end():
    events = []

    async def slow_to_end(call: ToolCall, number: int) -> ToolAnswer:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.05)
            events.append("ended")
        raise AssertionError("nobody waits for an hour")

    executor = calls.CallExecutor(Tools(slow_to_end), ArpoConfig(), calls.NO_LIMIT)
    leaf = Leaf(number=0, path="0", request_id="r")
    growing = asyncio.create_task(executor.execute(leaf, [ToolCall("python", "1+1")]))
    await asyncio.sleep(0.05)
    growing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await growing
    assert events == ["ended"]


def test_a_leaf_out_of_time_ends_after_its_call_with_all_its_tokens():
    [leaf], _ = grow(never, CALL, f"nothing{END}", max_leaf_seconds=0.2)
    assert leaf.stop_reason is StopReason.TIME_LIMIT
    assert text(leaf.token_ids) == f"{CALL} <result>\nError: no time is left for 'python'.\n</result>"
    assert leaf.faults == {"truncated"}


def test_a_fork_inherits_its_roots_time():
    root = Leaf(number=0, path="0", request_id="r")
    root.started -= 100.0
    assert root.fork(1, "0.1.0").started == root.started


@pytest.mark.parametrize("schedule", ["async", "lockstep"])
def test_all_leaves_come_out_when_every_call_hangs(schedule):
    leaves, _ = grow(
        never, CALL, f"nothing{END}", leaves=8, max_call_seconds=0.05, max_leaf_seconds=5.0, schedule=schedule
    )
    assert sorted(leaf.number for leaf in leaves) == list(range(8))


def test_the_watchdog_names_the_stuck_call_once_per_doubling_of_its_age(caplog, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(watchdog, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=time.sleep))
    dog = watchdog.Watchdog(60.0)
    with caplog.at_level(logging.WARNING), dog.watch("tool 'search' on 'two'"), dog.watch("other"):
        for seconds, reports in ((59, 0), (60, 2), (119, 2), (120, 4), (239, 4), (300, 6)):
            now[0] = 100.0 + seconds
            dog.report_stuck_calls()
            assert len(caplog.messages) == reports
    dog.report_stuck_calls()
    assert len(caplog.messages) == 6
    assert caplog.messages[0] == "stuck for 60 s: tool 'search' on 'two' (2 calls in flight)"


def test_the_watchdog_sees_a_call_that_blocks_the_event_loop(caplog):
    async def blocks(call: ToolCall, number: int) -> ToolAnswer:
        time.sleep(0.5)
        assert any("tool 'python' on '1+1'" in message for message in caplog.messages)
        return ToolAnswer("2", "ok")

    with caplog.at_level(logging.WARNING):
        [leaf], _ = grow(blocks, CALL, f"2{END}", stuck_call_seconds=0.1)
    assert statuses(leaf) == ["ok"]
