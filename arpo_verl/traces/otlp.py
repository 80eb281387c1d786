"""Spans as those of OpenTelemetry's SDK, in requests of OTLP (opentelemetry-sdk 1.27 and later)."""

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from google.protobuf.json_format import MessageToDict
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from arpo_verl.traces.span import TraceSpan

MOST_SPANS, MOST_CHARACTERS = 256, 1_000_000
"""Of one request; a span that is larger goes alone. Servers refuse requests of several megabytes."""
IDS = ("traceId", "spanId", "parentSpanId")


class SdkSpans:
    """Makes spans of the SDK."""

    def __init__(self, version: str) -> None:
        """
        Args:
            version: of this package. `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say more, or other things.
        """
        ours = Resource({"service.name": "arpo-verl", "service.version": version})
        self._resource = ours.merge(OTELResourceDetector().detect())
        self._scope = InstrumentationScope("arpo_verl.traces", version)

    def of(self, spans: Iterable[TraceSpan]) -> list[ReadableSpan]:
        """Return the spans as the SDK's exporters take them."""
        return [self._span(span) for span in spans]

    def _span(self, span: TraceSpan) -> ReadableSpan:
        return ReadableSpan(
            name=span.name.encode(errors="backslashreplace").decode(),
            context=_context(span.trace_id, span.span_id),
            parent=None if span.parent_id is None else _context(span.trace_id, span.parent_id),
            resource=self._resource,
            attributes=span.attributes,
            events=[Event(event.name, event.attributes, event.time) for event in span.events],
            links=[Link(_context(span.trace_id, link)) for link in span.links],
            kind=SpanKind.CLIENT if span.is_request else SpanKind.INTERNAL,
            instrumentation_scope=self._scope,
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(),
            start_time=span.begin,
            end_time=span.end,
        )


def _context(trace_id: int, span_id: int) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def json_line(spans: Sequence[ReadableSpan]) -> bytes:
    """Return a line of OTLP's JSON: a message `TracesData` with ids in hexadecimal, line feed included."""
    message = MessageToDict(encode_spans(spans), use_integers_for_enums=True)
    for of_resource in message.get("resourceSpans", ()):
        for of_scope in of_resource.get("scopeSpans", ()):
            for span in of_scope.get("spans", ()):
                for one in (span, *span.get("links", ())):
                    _write_ids(one)
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _write_ids(values: dict[str, Any]) -> None:
    # OTLP differs here from protobuf's own JSON, which has bytes in base 64.
    for name in IDS:
        if name in values:
            values[name] = base64.b64decode(values[name]).hex()


def requests_of(spans: Iterable[ReadableSpan]) -> Iterator[list[ReadableSpan]]:
    """Yield spans in groups that are small enough for a request, in order."""
    group: list[ReadableSpan] = []
    size = 0
    for span in spans:
        characters = sum(len(value) for value in (span.attributes or {}).values() if isinstance(value, str))
        if group and (len(group) >= MOST_SPANS or size + characters > MOST_CHARACTERS):
            yield group
            group, size = [], 0
        group.append(span)
        size += characters
    if group:
        yield group
