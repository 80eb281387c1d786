"""The spans of a recorded prompt: each segment and each call is one, under the leaf that had it first.

A leaf that forked is linked to the span of the last segment that it shares, so that a shared prefix is there once.
"""

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from arpo_verl.record import RecordedCall, RecordedPrompt, RecordedSegment
from arpo_verl.record.forks import interest_of
from arpo_verl.record.token_values import unpack
from arpo_verl.traces import names
from arpo_verl.traces.intervals import Interval, PromptTimes, known_times, times_of
from arpo_verl.traces.leaf_attributes import leaf_attributes, leaf_events
from arpo_verl.traces.span import TraceIds, TraceSpan, attributes_of, nanoseconds
from arpo_verl.viewer.summary import GOOD_STATUSES


@dataclass(frozen=True)
class SpanSettings:
    """What the spans of a step are made with."""

    step: int
    began: float
    """When it began, in seconds since 1970."""
    model: str = "policy"
    """What the model is called."""
    with_texts: bool = True
    """Texts, arguments and results are among the attributes."""


def spans_of_prompt(prompt: RecordedPrompt, settings: SpanSettings) -> list[TraceSpan]:
    """Return a prompt's trace, the prompt's own span first, parents before their children."""
    return list(_PromptSpans(prompt, settings).spans())


class _PromptSpans:
    def __init__(self, prompt: RecordedPrompt, settings: SpanSettings) -> None:
        self._prompt, self._settings = prompt, settings
        self._ids = TraceIds(f"{settings.began!r} {settings.step} {prompt.uid}")
        self._times: PromptTimes = times_of(prompt)

    def spans(self) -> Iterator[TraceSpan]:
        root = self._ids.span("prompt")
        name = f"step {self._settings.step} prompt {self._prompt.uid}"
        yield self._span("prompt", (), None, name, self._times.prompt, self._prompt_attributes())
        for number, own in enumerate(self._times.own):
            yield self._leaf(number, own, root)
            for place in own:
                yield from self._segment(place, self._ids.span("leaf", number))
        for place in self._times.unowned:
            yield from self._segment(place, root)

    def _span(
        self,
        kind: str,
        places: Sequence[int],
        parent: int | None,
        name: str,
        interval: Interval,
        attributes: dict[str, Any],
        **others: Any,
    ) -> TraceSpan:
        begin, end = (nanoseconds(self._settings.began, time) for time in interval)
        return TraceSpan(
            self._ids.trace,
            self._ids.span(kind, *places),
            parent,
            name,
            begin,
            end,
            attributes_of(attributes),
            **others,
        )

    def _prompt_attributes(self) -> dict[str, Any]:
        prompt = self._prompt
        rewards = [leaf.reward for leaf in prompt.leaves if leaf.reward is not None and not leaf.is_excluded]
        spread, forks = interest_of(prompt)
        texts = {names.INPUT_MESSAGES: message("user", prompt.text), "arpo.truth": as_json(prompt.truth)}
        return {
            names.OPERATION: names.TREE,
            names.CONVERSATION: prompt.uid,
            "arpo.step": self._settings.step,
            "arpo.source": prompt.source or None,
            "arpo.leaves": len(prompt.leaves),
            "arpo.forks": forks,
            "arpo.reward.mean": statistics.fmean(rewards) if rewards else None,
            "arpo.reward.spread": spread if rewards else None,
            **self._texts(texts),
        }

    def _leaf(self, number: int, own: Sequence[int], root: int) -> TraceSpan:
        leaf, interval = self._prompt.leaves[number], self._times.leaves[number]
        shared = [place for place in leaf.segments if place not in own]
        ends = [self._times.segments[place][1] for place in leaf.segments]
        events = leaf_events(self._prompt, leaf, ends, interval, self._settings.began)
        return self._span(
            "leaf",
            [number],
            root,
            f"{names.LEAF} leaf {leaf.number}",
            interval,
            leaf_attributes(self._prompt, leaf),
            events=events,
            links=[self._ids.span("segment", shared[-1])] if shared else [],
        )

    def _segment(self, place: int, parent: int) -> Iterator[TraceSpan]:
        segment = self._prompt.segments[place]
        name = f"{names.GENERATION} {self._settings.model}" if segment.is_sampled else names.RESULT
        yield self._span(
            "segment",
            [place],
            parent,
            name,
            self._times.segments[place],
            {**self._credit(place), **self._segment_attributes(segment)},
            is_request=segment.is_sampled,
        )
        for number, call in enumerate(segment.calls):
            interval = self._times.calls[place][number]
            yield self._call(place, number, call, interval)

    def _segment_attributes(self, segment: RecordedSegment) -> dict[str, Any]:
        entropies = [one for one in unpack(segment.entropies) if one is not None]
        surprisals = [one for one in unpack(segment.log_probs) if one is not None]
        common: dict[str, Any] = {
            "arpo.tokens": segment.tokens,
            "arpo.times": None if known_times(segment) else "unknown",
        }
        if not segment.is_sampled:
            is_told_by_call = len(segment.calls) == 1
            return common | self._texts(
                {} if is_told_by_call else {names.INPUT_MESSAGES: message("tool", segment.text)}
            )
        first, last = segment.weight_versions or (None, None)
        return {
            **common,
            names.OPERATION: names.GENERATION,
            names.PROVIDER: "verl",
            names.MODEL: self._settings.model,
            names.OUTPUT_TOKENS: segment.tokens,
            "arpo.entropy.mean": statistics.fmean(entropies) if entropies else None,
            "arpo.entropy.watched": list(map(float, segment.watched)),
            "arpo.log_prob.mean": -statistics.fmean(surprisals) if surprisals else None,
            "arpo.weights.first": first,
            "arpo.weights.last": last,
            "arpo.waited_seconds": segment.waited,
            **self._texts({names.OUTPUT_MESSAGES: message("assistant", segment.text)}),
        }

    def _credit(self, place: int) -> dict[str, Any]:
        """Return which leaves have a segment, and what each of them gives its tokens."""
        leaves = [leaf for leaf in self._prompt.leaves if place in leaf.segments]
        pairs = [
            (leaf.number, advantage)
            for leaf in leaves
            if (advantage := dict(zip(leaf.segments, leaf.advantages, strict=False)).get(place)) is not None
        ]
        return {
            "arpo.segment": place,
            "arpo.segment.leaves": [leaf.number for leaf in leaves],
            "arpo.advantage.leaves": [number for number, _ in pairs],
            "arpo.advantages": [float(advantage) for _, advantage in pairs],
        }

    def _call(self, place: int, number: int, call: RecordedCall, interval: Interval) -> TraceSpan:
        segment = self._prompt.segments[place]
        has_failed = call.status not in GOOD_STATUSES
        texts = {names.TOOL_ARGUMENTS: call.arguments}
        if len(segment.calls) == 1 and not segment.is_sampled:
            texts[names.TOOL_RESULT] = segment.text
        attributes = {
            names.OPERATION: names.TOOL,
            names.TOOL_NAME: call.tool,
            names.TOOL_TYPE: "function",
            names.TOOL_CALL_ID: f"{place}.{number}",
            names.ERROR_TYPE: call.status if has_failed else None,
            "arpo.call.status": call.status,
            "arpo.call.retries": call.retries,
            "arpo.call.is_cached": call.is_cached,
            "arpo.call.cost": call.cost,
            "arpo.waited_seconds": call.waited,
            "arpo.times": "unknown" if call.started is None else None,
            **self._texts(texts),
        }
        parent = self._ids.span("segment", place)
        name = f"{names.TOOL} {call.tool}"
        error = call.status if has_failed else ""
        return self._span("call", [place, number], parent, name, interval, attributes, error=error)

    def _texts(self, texts: dict[str, Any]) -> dict[str, Any]:
        return texts if self._settings.with_texts else {}


def message(role: str, text: str) -> str:
    """Return one message as the conventions have it in an attribute: JSON of a list with its parts."""
    part = {"type": "tool_call_response", "response": text} if role == "tool" else {"type": "text", "content": text}
    return json.dumps([{"role": role, "parts": [part]}], ensure_ascii=False)


def as_json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)
