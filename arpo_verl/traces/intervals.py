"""When the parts of a recorded prompt happened, so that each lies within the one that it is part of.

Seconds since the step began, as in the record. What the record has no time of takes no time, where the part before it
ended.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from arpo_verl.record import RecordedCall, RecordedLeaf, RecordedPrompt, RecordedSegment

Interval = tuple[float, float]


@dataclass(frozen=True)
class PromptTimes:
    """The times of a prompt's parts, and who has which segment."""

    prompt: Interval
    leaves: Sequence[Interval]
    """In the order of the prompt's leaves."""
    segments: Sequence[Interval]
    """By their places."""
    calls: Sequence[Sequence[Interval]]
    """Of each segment."""
    own: Sequence[Sequence[int]]
    """Places of the segments that each leaf has first."""
    unowned: Sequence[int]
    """Places of the segments that no leaf has."""


def times_of(prompt: RecordedPrompt) -> PromptTimes:
    """Return when the parts of a prompt happened."""
    begin = min((time for segment in prompt.segments for time in known_times(segment)), default=0.0)
    own, unowned = owners(prompt)
    segments: list[Interval] = [(begin, begin)] * len(prompt.segments)
    calls: list[Sequence[Interval]] = [()] * len(prompt.segments)
    leaves = []
    for leaf, places in zip(prompt.leaves, own, strict=True):
        mine = set(places)
        shared = [segments[place] for place in leaf.segments if place not in mine]
        start = end = max((interval[1] for interval in shared), default=begin)
        for place in places:
            segments[place], calls[place] = _interval_of_segment(prompt.segments[place], end)
            end = segments[place][1]
        leaves.append(_hull(_parts_of_leaf(leaf, [segments[place] for place in places]), start))
    for place in unowned:
        segments[place], calls[place] = _interval_of_segment(prompt.segments[place], begin)
    whole = _hull([*leaves, *(segments[place] for place in unowned)], begin)
    return PromptTimes(whole, leaves, segments, calls, own, unowned)


def known_times(segment: RecordedSegment) -> list[float]:
    """Return the times that the record has of a segment, its calls' beginnings included."""
    return [*(segment.times or ()), *(call.started for call in segment.calls if call.started is not None)]


def owners(prompt: RecordedPrompt) -> tuple[list[list[int]], list[int]]:
    """Return the segments that each leaf has first, in its order, and those that none has."""
    seen: set[int] = set()
    own = []
    for leaf in prompt.leaves:
        places = [place for place in dict.fromkeys(leaf.segments) if place not in seen]
        seen.update(places)
        own.append(places)
    return own, [place for place in range(len(prompt.segments)) if place not in seen]


def _parts_of_leaf(leaf: RecordedLeaf, segments: Iterable[Interval]) -> list[Interval]:
    return [*segments, *([_ordered(*leaf.reward_times)] if leaf.reward_times is not None else [])]


def _interval_of_segment(segment: RecordedSegment, before: float) -> tuple[Interval, list[Interval]]:
    """Return when a segment and its calls were; `before` is the end of what came before them."""
    cursor = min(known_times(segment), default=before)
    calls = []
    for call in segment.calls:
        start = cursor if call.started is None else call.started
        interval = _ordered(start, start + _duration(call))
        calls.append(interval)
        if call.started is None:
            cursor = interval[1]
    times = [_ordered(*segment.times)] if segment.times is not None else []
    return _hull([*times, *calls], before), calls


def _duration(call: RecordedCall) -> float:
    return max(0.0, call.waited) + max(0.0, call.seconds)


def _ordered(first: float, second: float) -> Interval:
    return min(first, second), max(first, second)


def _hull(intervals: Sequence[Interval], otherwise: float) -> Interval:
    """Return the shortest interval around all; of none, that moment."""
    if not intervals:
        return otherwise, otherwise
    return min(begin for begin, _ in intervals), max(end for _, end in intervals)
