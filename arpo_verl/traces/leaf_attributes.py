"""What the span of a leaf says: its place in the tree, its reward, and what was decided at its fork points."""

from collections.abc import Sequence
from typing import Any

from arpo_verl.record import RecordedLeaf, RecordedPrompt
from arpo_verl.record.forks import decision_of, mean_advantage
from arpo_verl.rollout.tree import Decision
from arpo_verl.traces import names
from arpo_verl.traces.intervals import Interval
from arpo_verl.traces.span import TraceEvent, attributes_of, nanoseconds


def leaf_attributes(prompt: RecordedPrompt, leaf: RecordedLeaf) -> dict[str, Any]:
    """Return the attributes of a leaf's span."""
    decision = decision_of(prompt, leaf)
    fork = {} if decision is None else {f"arpo.fork.{name}": value for name, value in _said(decision).items()}
    parts = {f"arpo.reward.part.{name}": value for name, value in leaf.parts.items()}
    return {
        names.OPERATION: names.LEAF,
        names.AGENT_NAME: f"leaf {leaf.number}",
        names.AGENT_ID: leaf.key,
        "arpo.leaf": leaf.number,
        "arpo.leaf.parent": leaf.parent,
        "arpo.leaf.path": leaf.path or None,
        "arpo.leaf.is_top_up": leaf.is_top_up,
        "arpo.leaf.is_excluded": leaf.is_excluded,
        "arpo.leaf.is_result_cut": leaf.is_result_cut,
        "arpo.leaf.stop_reason": leaf.stop_reason or None,
        "arpo.leaf.replayed_step": leaf.replayed_step,
        "arpo.fork.token": leaf.fork_token,
        **fork,
        "arpo.reward": leaf.reward,
        **parts,
        "arpo.advantage": mean_advantage(prompt, leaf),
        "arpo.requested_tokens": leaf.requested_tokens,
        "arpo.cached_tokens": leaf.cached_tokens,
    }


def leaf_events(
    prompt: RecordedPrompt, leaf: RecordedLeaf, ends: Sequence[float], interval: Interval, began: float
) -> list[TraceEvent]:
    """Return what was decided at a leaf's fork points, and its reward.

    Args:
        prompt: the leaf's.
        leaf: the leaf.
        ends: of its segments, in seconds since the step began.
        interval: the leaf's own, from which no event is outside.
        began: when the step began, in seconds since 1970.
    """
    tokens, end_at = 0, {0: interval[0]}
    for segment, end in zip(prompt.segments_of(leaf), ends, strict=True):
        tokens += segment.tokens
        end_at[tokens] = end

    def event(name: str, time: float, values: dict[str, Any]) -> TraceEvent:
        inside = min(max(time, interval[0]), interval[1])
        return TraceEvent(name, nanoseconds(began, inside), attributes_of(values))

    events = [
        event(
            names.DECISION_EVENT,
            end_at.get(-1 if one.fork_token is None else one.fork_token, interval[1]),
            {f"arpo.{name}": value for name, value in {"fork_token": one.fork_token, **_said(one)}.items()},
        )
        for one in leaf.decisions
    ]
    events += [
        event(
            names.REFUSAL_EVENT,
            end_at.get(one.fork_token, interval[1]),
            {"arpo.fork_token": one.fork_token, "arpo.reason": one.reason},
        )
        for one in leaf.refusals
    ]
    if leaf.reward is not None:
        time = interval[1] if leaf.reward_times is None else leaf.reward_times[1]
        said = {names.EVALUATION_NAME: "reward", names.EVALUATION_SCORE: leaf.reward}
        events.append(event(names.EVALUATION_EVENT, time, said))
    return events


def _said(decision: Decision) -> dict[str, Any]:
    return {
        "forks": decision.forks,
        "limit": decision.limit,
        "entropy": decision.entropy,
        "entropy_change": decision.entropy_change,
        "branch_score": decision.branch_score,
        "probability": decision.fork_probability,
        "score": decision.score,
        "round": decision.round,
        "draws": list(map(float, decision.draws)),
    }
