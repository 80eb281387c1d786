"""A span in plain values, before it is one of the SDK's."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Attribute = str | bool | int | float | Sequence[int] | Sequence[float] | Sequence[str]
LAST = 2**63 - 1
"""The last nanosecond; what is later by a defect of the record is then."""


@dataclass(frozen=True)
class TraceEvent:
    """A moment of a span."""

    name: str
    time: int
    """In nanoseconds since 1970."""
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


@dataclass(frozen=True)
class TraceSpan:
    """A span of a trace."""

    trace_id: int
    """128 bits; the same whenever the same prompt is exported."""
    span_id: int
    """64 bits, likewise."""
    parent_id: int | None
    """None of the prompt's."""
    name: str
    begin: int
    """In nanoseconds since 1970."""
    end: int
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    events: Sequence[TraceEvent] = ()
    links: Sequence[int] = ()
    """Spans of the same trace that this one goes on from."""
    error: str = ""
    """Why what it stands for has failed."""
    is_request: bool = False
    """It stands for a request to a server of the model."""


@dataclass(frozen=True)
class TraceIds:
    """The ids of one prompt's spans."""

    key: str
    """Names the prompt, and the run that it is of."""

    @property
    def trace(self) -> int:
        return self._number("", 16)

    def span(self, kind: str, *places: int) -> int:
        """Return the id of one of its parts."""
        return self._number(f"{kind} {' '.join(map(str, places))}", 8)

    def _number(self, part: str, size: int) -> int:
        digest = hashlib.sha256(f"{self.key}\n{part}".encode(errors="backslashreplace")).digest()
        return int.from_bytes(digest[:size], "big") or 1  # 0 is no id


def nanoseconds(began: float, offset: float) -> int:
    """Return a moment of the record, in nanoseconds since 1970; later moments never come before earlier ones.

    Args:
        began: when the step began, in seconds since 1970.
        offset: seconds since then.
    """
    # Rounded apart, for a number of seconds since 1970 has no room for nanoseconds.
    return min(max(_whole_nanoseconds(began) + _whole_nanoseconds(offset), 0), LAST)


def _whole_nanoseconds(seconds: float) -> int:
    most = LAST / 1e9
    return 0 if math.isnan(seconds) else round(min(max(seconds, -most), most) * 1e9)


def attributes_of(values: Mapping[str, Any]) -> dict[str, Attribute]:
    """Return what an attribute may hold of each value; those that are None, not finite or empty lists are left out.

    Lists of anything else than numbers or texts, and mappings, become JSON; halves of surrogate pairs, which no
    exporter can write, are written out.
    """
    kept = {writable(name): _attribute(value) for name, value in values.items()}
    return {name: value for name, value in kept.items() if value is not None}


def _attribute(value: Any) -> Attribute | None:
    if isinstance(value, str):
        return writable(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return value if abs(value) <= LAST else str(value)  # an attribute has 64 bits
    if isinstance(value, (list, tuple)) and _is_plain(value):
        return list(value) or None
    return None if value is None else writable(json.dumps(value, ensure_ascii=False, default=str))


def _is_plain(values: Sequence[Any]) -> bool:
    """Whether a list may be an attribute: of whole numbers, or of numbers, alone."""
    are_whole = all(type(one) is int and abs(one) <= LAST for one in values)
    return are_whole or all(type(one) is float and math.isfinite(one) for one in values)


def writable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
