"""The history of a leaf in plain values, which travels with it from the worker to the trainer and into the JSONL."""

import json
import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from arpo_verl.config.training import LeafFault
from arpo_verl.rollout.tree import Decision, ExecutedCall, Leaf, Refusal, Segment, WatchedTurn

_LISTS = ("segments", "calls", "decisions", "refusals", "watched_turns")
"""The fields of a `LeafRecord` that hold records themselves."""


@dataclass(frozen=True)
class SegmentRecord:
    """A run of tokens that was generated or inserted in one piece."""

    id: int
    tokens: int
    is_sampled: bool
    times: tuple[float, float] | None = None
    """As in `Segment`."""
    waited_seconds: float = 0.0
    weight_versions: tuple[int, int] | None = None


@dataclass(frozen=True)
class ToolCallRecord:
    """One executed call in plain values; a call of a shared prefix is in the record of each of its leaves."""

    segment: int
    """Id of the segment that its result is in."""
    tool: str
    status: str
    latency_seconds: float
    retries: int
    arguments: str = ""
    """The text of a tag, or named arguments as JSON. The result is the segment's text."""
    started: float | None = None
    """As in `ExecutedCall`, with all that follows."""
    waited_seconds: float = 0.0
    is_cached: bool | None = None
    cost: float | None = None


@dataclass(frozen=True)
class LeafRecord:
    """The history of one leaf in plain values, so that it survives every transport."""

    leaves: int
    """n, the number of leaves of the tree."""
    number: int
    parent: int | None
    path: str
    fork_token: int | None
    is_top_up: bool
    stop_reason: str
    is_result_cut: bool
    is_excluded: bool
    """The leaf is left out of the loss and of its group's statistics (`arpo.exclude`)."""
    segments: list[SegmentRecord]
    """The segments, those of the prefix included."""
    calls: list[ToolCallRecord]
    """The executed calls, those of the prefix included."""
    entropy_initial: float | None
    """Mean of H_initial in nats; None where it was not measured."""
    decisions: list[Decision]
    """The decisions at this leaf's own fork points."""
    weight_versions: tuple[int, int] | None
    """First and last version of the weights that sampled the leaf."""
    requested_tokens: int
    cached_tokens: int
    refusals: list[Refusal] = field(default_factory=list)
    """This leaf's own fork points at which the rule was not asked."""
    watched_turns: list[WatchedTurn] = field(default_factory=list)
    """The entropies of this leaf's own watched turns."""

    @classmethod
    def from_leaf(cls, leaf: Leaf, leaves: int, exclude: Collection[LeafFault] = ()) -> "LeafRecord":
        """Return the record of a finished leaf of a tree of `leaves`."""
        assert leaf.stop_reason is not None, f"leaf {leaf.path} is still alive"
        initial = leaf.turn_entropies[0] if leaf.turn_entropies else []
        return cls(
            leaves=leaves,
            number=leaf.number,
            parent=leaf.parent,
            path=leaf.path,
            fork_token=leaf.fork_token,
            is_top_up=leaf.is_top_up,
            stop_reason=leaf.stop_reason.value,
            is_result_cut=leaf.is_result_cut,
            is_excluded=bool(leaf.faults & set(exclude)),
            segments=[_segment_record(one) for one in leaf.segments],
            calls=[_call_record(segment.id, call) for segment in leaf.segments for call in segment.calls],
            entropy_initial=statistics.fmean(initial) if initial else None,
            decisions=list(leaf.decisions),
            weight_versions=leaf.weight_versions,
            requested_tokens=leaf.requested_tokens,
            cached_tokens=leaf.cached_tokens,
            refusals=list(leaf.refusals),
            watched_turns=list(leaf.watched_turns),
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LeafRecord":
        """Return what `as_dict` has written."""
        lists = {
            "segments": [SegmentRecord(**one) for one in values["segments"]],
            "calls": [ToolCallRecord(**one) for one in values["calls"]],
            "decisions": [Decision(**one) for one in values["decisions"]],
            "refusals": [Refusal(**one) for one in values.get("refusals", ())],
            "watched_turns": [WatchedTurn(**one) for one in values.get("watched_turns", ())],
        }
        return cls(**(dict(values) | lists))

    def as_dict(self) -> dict[str, Any]:
        """Return the record as dictionaries, lists, numbers and texts."""
        # Not `dataclasses.asdict`, which copies every number and takes ten times as long.
        return vars(self) | {name: [dict(vars(one)) for one in getattr(self, name)] for name in _LISTS}

    @property
    def statuses(self) -> set[str]:
        """The statuses of the calls, those of the prefix included."""
        return {call.status for call in self.calls}


def _segment_record(segment: Segment) -> SegmentRecord:
    return SegmentRecord(
        segment.id,
        len(segment.token_ids),
        segment.is_sampled,
        segment.times,
        segment.waited_seconds,
        segment.weight_versions,
    )


def _call_record(segment: int, call: ExecutedCall) -> ToolCallRecord:
    return ToolCallRecord(
        segment=segment,
        tool=call.name,
        status=call.status,
        latency_seconds=call.latency_seconds,
        retries=call.retries,
        arguments=_arguments_text(call.arguments),
        started=call.started,
        waited_seconds=call.waited_seconds,
        is_cached=call.is_cached,
        cost=call.cost,
    )


def _arguments_text(arguments: str | dict[str, Any]) -> str:
    if isinstance(arguments, str):
        return arguments
    try:
        return json.dumps(arguments, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):  # a model may nest them as deep as it likes
        return f"({len(arguments)} arguments that can't be written as JSON)"
