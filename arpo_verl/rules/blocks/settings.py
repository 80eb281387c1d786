"""Checks of the settings in `arpo.rule_kwargs`: a ValueError says what was got and what is expected."""

import math
from collections.abc import Collection, Sequence
from typing import Any

KEY = "arpo.rule_kwargs"


def refused(name: str, value: object, expected: str) -> ValueError:
    return ValueError(f"{KEY}.{name}={value!r}; expected {expected}: change it")


def one_name(name: str, value: Any, known: Collection[str]) -> str:
    """Return a setting that names one of several blocks."""
    if not isinstance(value, str) or value not in known:
        raise refused(name, value, f"one of {', '.join(known)}")
    return value


def several_names(name: str, value: Any, known: Collection[str]) -> tuple[str, ...]:
    """Return a setting that names one block or a list of them."""
    names = [value] if isinstance(value, str) else value
    is_list = isinstance(names, Sequence) and len(names) > 0
    if not is_list or any(not isinstance(one, str) or one not in known for one in names):
        raise refused(name, value, f"one of {', '.join(known)}, or a list of them")
    return tuple(names)


def whole_number(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise refused(name, value, f"a whole number of at least {least}")
    return value


def number(name: str, value: Any, least: float = -math.inf, most: float = math.inf) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not least <= value <= most:
        low = f" of at least {least:g}" if most == math.inf > -least else ""
        raise refused(name, value, f"a number from {least:g} to {most:g}" if most < math.inf else f"a number{low}")
    return float(value)


def truth(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise refused(name, value, "true or false")
    return value
