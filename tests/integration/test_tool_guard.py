"""When a run ends because of its tools: refused keys, spent calls, too many failures; and the alarm without calls."""

import logging

import pytest
from omegaconf import OmegaConf

from arpo_verl.config import ArpoConfig
from arpo_verl.integration.training.tool_guard import (
    PaidCallsSpent,
    RunStopped,
    require_working_tools,
    warn_without_calls,
)
from arpo_verl.rollout.leaf_record import LeafRecord
from arpo_verl.rollout.tree import ExecutedCall, Leaf, Segment, StopReason


def leaf(number: int, *calls: tuple[str, str]) -> LeafRecord:
    """A leaf with (tool, status) calls."""
    records = tuple(ExecutedCall(tool, status, 0.1) for tool, status in calls)
    grown = Leaf(number=number, path=str(number), request_id=str(number), stop_reason=StopReason.COMPLETED)
    grown.segments.append(Segment(number, [1], False, [0.0], calls=records))
    return LeafRecord.from_leaf(grown, 4)


GOOD = [leaf(number, ("python", "ok"), ("search", "empty")) for number in range(3)]


def test_a_run_whose_tools_work_goes_on():
    require_working_tools({"p": [*GOOD, leaf(3, ("search", "timeout"), ("python", "model_error"))]}, ArpoConfig())


def test_one_refused_key_ends_the_run_and_the_tool_is_named():
    with pytest.raises(RunStopped, match=r"the service behind search refuses the key .*`arpo-verl doctor`") as caught:
        require_working_tools({"p": [*GOOD, leaf(3, ("search", "refused"))]}, ArpoConfig())
    assert not isinstance(caught.value, PaidCallsSpent)


def test_spent_calls_end_the_run_as_was_asked_for():
    with pytest.raises(PaidCallsSpent, match="paid calls of search are spent: raise max_paid_calls"):
        require_working_tools({"p": GOOD, "q": [leaf(3, ("search", "budget"))]}, ArpoConfig())


@pytest.mark.parametrize(("limit", "is_stopped"), [(0.2, True), (0.25, False), (1.0, False)])
def test_the_run_ends_above_the_share_of_leaves_with_a_failed_tool(limit, is_stopped):
    # One leaf of four; its second failure does not count again.
    trees = {"p": [*GOOD, leaf(3, ("search", "infrastructure_error"), ("search", "infrastructure_error"))]}
    config = ArpoConfig(max_infrastructure_fraction=limit)
    if not is_stopped:
        require_working_tools(trees, config)
        return
    with pytest.raises(RunStopped, match=r"in 25% of 4 leaves; expected at most arpo.max_infrastructure_fraction=0.2"):
        require_working_tools(trees, config)


@pytest.mark.parametrize(("calls", "tools", "alarms"), [(0, "tools.yaml", 1), (1, "tools.yaml", 0), (0, None, 0)])
def test_a_step_with_tools_and_without_calls_raises_an_alarm(caplog, calls, tools, alarms):
    multi_turn = {"tool_config_path": tools, "function_tool_path": None, "format": "hermes"}
    config = OmegaConf.create({"actor_rollout_ref": {"rollout": {"multi_turn": multi_turn}}})
    with caplog.at_level(logging.ERROR):
        warn_without_calls(calls, config, step=7)
    assert len(caplog.messages) == alarms
    assert all("step 7: no leaf has called a tool" in message for message in caplog.messages)
