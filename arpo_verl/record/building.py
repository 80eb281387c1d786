"""Builds the record of a step from the rows of its batch. Pure: rows in, record out.

Segments that leaves share are kept once. Rows without the history of a leaf, of an agent loop that is not ours, and
replayed rows, whose tokens are not those of the leaf's history, have the segments that their mask shows.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from arpo_verl.record.content import RecordedCall, RecordedLeaf, RecordedPrompt, RecordedSegment
from arpo_verl.record.token_texts import TokenTexts
from arpo_verl.record.token_values import pack, pack_lengths
from arpo_verl.rollout.leaf_record import LeafRecord, SegmentRecord

Values = np.ndarray
"""Of one row, one number a token of the response. Shape (response_length,)."""


@dataclass(frozen=True)
class Row:
    """A row of a step's batch."""

    key: str
    prompt: str
    """The prompt's id."""
    tree: str
    """Rows with the same name share the segments with the same ids."""
    number: int
    """The leaf's, where its history does not say it."""
    prompt_ids: Sequence[int]
    response_ids: Sequence[int]
    mask: Values
    """1 for tokens that are in the loss."""
    reward: float
    record: LeafRecord | None = None
    """The leaf's history; None of a leaf of another agent loop."""
    parts: Mapping[str, Any] = field(default_factory=dict)
    advantages: Values | None = None
    log_probs: Values | None = None
    """Of the actor, or of the server where the actor's are not computed."""
    entropies: Values | None = None
    """The actor's, in nats."""
    truth: Any = None
    source: str = ""
    replayed_step: int | None = None
    reward_times: tuple[float, float] | None = None
    signals: Mapping[str, Any] = field(default_factory=dict)

    @property
    def history(self) -> LeafRecord | None:
        """The leaf's history, where the row's tokens are those of the leaf."""
        return None if self.replayed_step is not None else self.record

    def segments(self) -> list[SegmentRecord]:
        """Return the segments of the row's tokens; ids below 0 are of no tree."""
        if self.history is not None:
            return self.history.segments
        changes = [0, *(np.flatnonzero(np.diff(self.mask)) + 1).tolist(), len(self.response_ids)]
        pairs = pairwise(changes)
        return [
            SegmentRecord(-1 - place, behind - first, bool(self.mask[first]))
            for place, (first, behind) in enumerate(pairs)
            if behind > first
        ]


class RecordBuilder:
    """Builds records with one tokenizer."""

    def __init__(self, texts: TokenTexts) -> None:
        self._texts = texts

    def prompts(self, rows: Sequence[Row], began: float) -> Iterator[RecordedPrompt]:
        """Yield the prompts of a step, in order of their first rows.

        Args:
            rows: the step's.
            began: when the step began, in seconds since 1970.
        """
        by_prompt: dict[str, list[Row]] = {}
        for row in rows:
            by_prompt.setdefault(row.prompt, []).append(row)
        return (self._prompt(uid, of_prompt, began) for uid, of_prompt in by_prompt.items())

    def _prompt(self, uid: str, rows: Sequence[Row], began: float) -> RecordedPrompt:
        first = rows[0]
        segments: list[RecordedSegment] = []
        places: dict[tuple[str, int], int] = {}
        watched = _watched(rows)
        leaves = []
        for row in sorted(rows, key=lambda row: row.number):
            path, end = [], 0
            for segment in row.segments():
                begin, end = end, end + segment.tokens
                name = (row.tree if row.history is not None else row.key, segment.id)
                if name not in places:
                    places[name] = len(segments)
                    segments.append(self._segment(row, segment, begin, watched.get(name, ()), began))
                path.append(places[name])
            leaves.append(_leaf(row, path, began))
        asked = self._texts.of(first.prompt_ids)
        return RecordedPrompt(
            uid=uid,
            text=asked.text,
            special=asked.special,
            segments=segments,
            leaves=leaves,
            truth=plain(first.truth),
            source=first.source,
        )

    def _segment(
        self, row: Row, segment: SegmentRecord, begin: int, watched: Sequence[float], began: float
    ) -> RecordedSegment:
        span = slice(begin, begin + segment.tokens)
        decoded = self._texts.of(row.response_ids[span])
        has_values = segment.is_sampled
        calls = () if row.history is None else [one for one in row.history.calls if one.segment == segment.id]
        return RecordedSegment(
            text=decoded.text,
            tokens=segment.tokens,
            is_sampled=segment.is_sampled,
            times=_since(began, segment.times),
            waited=round(segment.waited_seconds, 3),
            weight_versions=segment.weight_versions,
            special=decoded.special,
            lengths=pack_lengths(decoded.lengths),
            log_probs=pack(-row.log_probs[span]) if has_values and row.log_probs is not None else "",
            entropies=pack(row.entropies[span]) if has_values and row.entropies is not None else "",
            watched=[round(one, 4) for one in watched],
            calls=[
                RecordedCall(
                    tool=call.tool,
                    status=call.status,
                    seconds=round(call.latency_seconds, 3),
                    arguments=call.arguments,
                    retries=call.retries,
                    started=None if call.started is None else round(call.started - began, 3),
                    waited=round(call.waited_seconds, 3),
                    is_cached=call.is_cached,
                    cost=call.cost,
                )
                for call in calls
            ],
        )


def _watched(rows: Sequence[Row]) -> dict[tuple[str, int], Sequence[float]]:
    """Return the entropies of watched turns by the tree and the id of the segment that they begin."""
    found: dict[tuple[str, int], Sequence[float]] = {}
    for row in rows:
        if row.history is None:
            continue
        begins: dict[int, int] = {}
        end = 0
        for segment in row.history.segments:
            begins.setdefault(end, segment.id)
            end += segment.tokens
        for turn in row.history.watched_turns:
            if turn.token in begins:
                found[row.tree, begins[turn.token]] = turn.entropies
    return found


def _leaf(row: Row, path: Sequence[int], began: float) -> RecordedLeaf:
    common = RecordedLeaf(
        key=row.key,
        number=row.number,
        segments=path,
        reward=float(f"{row.reward:.6g}") if math.isfinite(row.reward) else None,
        parts=plain(dict(row.parts)),
        advantages=[] if row.advantages is None else _mean_advantages(row, row.advantages),
        replayed_step=row.replayed_step,
        reward_times=_since(began, row.reward_times),
        signals={name: plain(value) for name, value in row.signals.items() if value},
    )
    history = row.history
    if history is None:
        return common
    return RecordedLeaf(
        **{
            **vars(common),
            "stop_reason": history.stop_reason,
            "parent": history.parent,
            "path": history.path,
            "fork_token": history.fork_token,
            "is_top_up": history.is_top_up,
            "is_result_cut": history.is_result_cut,
            "is_excluded": history.is_excluded,
            "decisions": history.decisions,
            "refusals": history.refusals,
            "requested_tokens": history.requested_tokens,
            "cached_tokens": history.cached_tokens,
        }
    )


def _mean_advantages(row: Row, advantages: Values) -> list[float | None]:
    means: list[float | None] = []
    end = 0
    for segment in row.segments():
        begin, end = end, end + segment.tokens
        kept = advantages[begin:end][row.mask[begin:end] != 0]
        means.append(float(f"{float(kept.mean()):.4g}") if len(kept) and np.isfinite(kept).all() else None)
    return means


def _since(began: float, times: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if times is None else (round(times[0] - began, 3), round(times[1] - began, 3))


def plain(value: Any) -> Any:
    """Return a value as JSON has it: numbers of numpy as numbers, non-finite ones as None, what is unknown as text."""
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
