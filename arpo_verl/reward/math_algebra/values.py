"""The values of parsed mathematical answers that SymPy's own expressions, relations, sets and matrices do not cover."""

from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Items:
    """Several values. `SET` and `LIST` have no order; a list is what stands without brackets."""

    kind: str
    values: tuple[Any, ...]


SET, LIST, TUPLE, RATIO = "set", "list", "tuple", "ratio"


@dataclass(frozen=True)
class Pair:
    """Two values in brackets: an interval, or a tuple if both brackets are round."""

    opening: str
    start: Any
    end: Any
    closing: str

    @property
    def is_round(self) -> bool:
        return (self.opening, self.closing) == ("(", ")")


@dataclass(frozen=True)
class Pieces:
    """A union of intervals, sets or relations."""

    values: tuple[Any, ...]


Value: TypeAlias = Any
"""One of these, or an object of SymPy's, which has no types."""


class Unreadable(Exception):
    """A text is not mathematics that can be parsed here."""
