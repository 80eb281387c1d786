"""A knob: a field of a configuration that carries its meaning and its check, from which all else is derived."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin


@dataclass(frozen=True)
class KnobCheck:
    """A condition on a knob's value."""

    is_valid: Callable[[Any], bool]
    expected: str
    """The condition in words, which follow "expected" in a message."""


def knob(
    default: Any, meaning: str, check: KnobCheck | None = None, *, symbol: str = "", shown: str | None = None
) -> Any:
    """Return a dataclass field for a knob.

    Args:
        default: its value where it is not set; an empty mapping is made anew for each configuration.
        meaning: what it does, for the documents.
        check: what a value has to be, beside its type.
        symbol: the paper's.
        shown: what the documents give as its default, where that says more than the value.
    """
    metadata = {"meaning": meaning, "check": check, "symbol": symbol, "shown": shown}
    if isinstance(default, Mapping):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def require(is_valid: bool, name: str, value: object, expected: str) -> None:
    """Raise a ValueError that names a knob, its value and what is expected, unless the value is good."""
    if not is_valid:
        raise ValueError(f"arpo.{name}={value!r}; expected {expected}: change it")


def at_least(least: int, remark: str = "") -> KnobCheck:
    return KnobCheck(lambda value: value >= least, f"at least {least}{remark}")


def at_least_or_null(least: int) -> KnobCheck:
    return KnobCheck(lambda value: value is None or value >= least, f"at least {least}, or null")


def one_of(*choices: str) -> KnobCheck:
    return KnobCheck(lambda value: value in choices, f"one of {', '.join(choices)}")


def text_with(part: str) -> KnobCheck:
    return KnobCheck(lambda value: value.count(part) == 1, f"a text with {part} in it, once")


def _is_seconds(value: float) -> bool:
    return 0 < value < math.inf


FRACTION = KnobCheck(lambda value: 0 <= value <= 1, "a number from 0 to 1")
NOT_NEGATIVE = KnobCheck(lambda value: value >= 0, "a number of at least 0")
FINITE_NOT_NEGATIVE = KnobCheck(lambda value: 0 <= value < math.inf, "a number of at least 0")
SECONDS = KnobCheck(_is_seconds, "a positive number of seconds")
SECONDS_OR_NULL = KnobCheck(lambda value: value is None or _is_seconds(value), "a positive number of seconds, or null")


def types_of(hint: Any) -> tuple[type, ...]:
    """Return the types of YAML values that a knob of a type may have."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return tuple(kind for part in get_args(hint) for kind in types_of(part))
    if origin is Literal:
        return (str,)
    if origin is Sequence:
        return (list,)
    if origin is Mapping:
        return (dict,)
    return (int, float) if hint is float else (hint,)
