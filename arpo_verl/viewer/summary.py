"""Sums up steps and prompts: what the page of a run draws, and what the page of a step lists.

Plain values for JSON. What leaves share counts once; a statistic of nothing is None.
"""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from arpo_verl.record import RecordedLeaf, RecordedPrompt, RecordedSegment, RecordedStep
from arpo_verl.record.visible import question_of

GOOD_STATUSES = ("ok", "empty")
WAITING, SAMPLING, TOOL, REWARD = "w", "g", "t", "r"
"""What a leaf does in a span of time."""


def summary_of_step(step: RecordedStep) -> dict[str, Any]:
    """Return what the page of a run shows of a step."""
    leaves = [leaf for _, leaf in step.rows()]
    segments = [segment for prompt in step.prompts for segment in prompt.segments]
    calls = [call for segment in segments for call in segment.calls]
    decisions = [decision for leaf in leaves for decision in leaf.decisions]
    rewards = [leaf.reward for leaf in leaves if leaf.reward is not None]
    sampled = sum(segment.tokens for segment in segments if segment.is_sampled)
    in_leaves = sum(segment.tokens for prompt, leaf in step.rows() for segment in prompt.segments_of(leaf))
    return {
        "step": step.step,
        "prompts": len(step.prompts),
        "leaves": len(leaves),
        "reward": mean(rewards),
        "spread": mean(_deviation(_rewards(prompt)) for prompt in step.prompts if len(_rewards(prompt)) > 1),
        "calls": len(calls),
        "statuses": dict(Counter(f"{call.tool}: {call.status}" for call in calls)),
        "failed": sum(call.status not in GOOD_STATUSES for call in calls),
        "tokens": sampled,
        "shared": 1 - sum(segment.tokens for segment in segments) / in_leaves if in_leaves else None,
        "initial": mean(_initial_entropies(step)),
        "after": mean(one.entropy for one in decisions if one.entropy is not None),
        "stops": dict(Counter(leaf.stop_reason or "unknown" for leaf in leaves)),
        "forks": sum(leaf.parent is not None for leaf in leaves),
        "topUps": sum(leaf.is_top_up for leaf in leaves),
        "excluded": sum(leaf.is_excluded for leaf in leaves),
        "seconds": step.seconds,
        "alarms": list(step.alarms),
        "problems": list(step.problems),
    }


def _initial_entropies(step: RecordedStep) -> Iterable[float]:
    for prompt in step.prompts:
        firsts = {leaf.segments[0] for leaf in prompt.leaves if leaf.segments}
        yield from (mean(watched) or 0.0 for place in firsts if (watched := prompt.segments[place].watched))


def table_of_step(step: RecordedStep) -> dict[str, Any]:
    """Return what the page of a step lists, and what its timeline draws."""
    return {
        "step": step.step,
        "began": step.began,
        "seconds": step.seconds,
        "alarms": list(step.alarms),
        "problems": list(step.problems),
        "prompts": [row_of_prompt(prompt) for prompt in step.prompts],
    }


def row_of_prompt(prompt: RecordedPrompt) -> dict[str, Any]:
    """Return what is said of a prompt beside its texts."""
    rewards = _rewards(prompt)
    calls = [call for segment in prompt.segments for call in segment.calls]
    return {
        "uid": prompt.uid,
        "question": question_of(prompt),
        "source": prompt.source,
        "rewards": [leaf.reward for leaf in prompt.leaves],
        "mean": mean(rewards),
        "spread": _deviation(rewards) if rewards else None,
        "forks": sum(leaf.parent is not None for leaf in prompt.leaves),
        "topUps": sum(leaf.is_top_up for leaf in prompt.leaves),
        "refusals": sum(len(leaf.refusals) for leaf in prompt.leaves),
        "calls": len(calls),
        "statuses": dict(Counter(call.status for call in calls)),
        "failed": sum(call.status not in GOOD_STATUSES for call in calls),
        "tokens": sum(segment.tokens for segment in prompt.segments if segment.is_sampled),
        "excluded": sum(leaf.is_excluded for leaf in prompt.leaves),
        "replayed": sum(leaf.replayed_step is not None for leaf in prompt.leaves),
        "stops": dict(Counter(leaf.stop_reason or "unknown" for leaf in prompt.leaves)),
        "leaves": [
            {"number": leaf.number, "parent": leaf.parent, "isTopUp": leaf.is_top_up, "spans": spans}
            for leaf, spans in zip(prompt.leaves, spans_of(prompt), strict=True)
        ],
    }


def spans_of(prompt: RecordedPrompt) -> list[list[tuple[str, float, float]]]:
    """Return of each leaf what it did when, in seconds since the step began, without what its prefix did."""
    seen: set[int] = set()
    found = []
    for leaf in prompt.leaves:
        own = [place for place in leaf.segments if place not in seen]
        seen.update(own)
        spans = [span for place in own for span in _spans_of_segment(prompt.segments[place])]
        if leaf.reward_times is not None:
            spans.append((REWARD, *leaf.reward_times))
        found.append(sorted(spans, key=lambda span: span[1]))
    return found


def _spans_of_segment(segment: RecordedSegment) -> Iterable[tuple[str, float, float]]:
    if segment.times is not None:
        begin, end = segment.times
        sent = min(begin + segment.waited, end)
        if sent > begin:
            yield WAITING, begin, round(sent, 3)
        yield SAMPLING, round(sent, 3), end
    for call in segment.calls:
        if call.started is not None:
            made = call.started + call.waited
            if call.waited:
                yield WAITING, call.started, round(made, 3)
            yield TOOL, round(made, 3), round(made + call.seconds, 3)


def mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return statistics.fmean(known) if known else None


def _rewards(prompt: RecordedPrompt) -> Sequence[float]:
    return [leaf.reward for leaf in prompt.leaves if _counts(leaf) and leaf.reward is not None]


def _counts(leaf: RecordedLeaf) -> bool:
    return not leaf.is_excluded


def _deviation(values: Sequence[float]) -> float:
    return statistics.pstdev(values)
