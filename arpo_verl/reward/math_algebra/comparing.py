"""The comparison of two values: numbers to a relative precision, expressions at sample points, the rest by parts."""

from collections.abc import Sequence
from typing import Any

import sympy
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational

from .reading import read
from .values import RATIO, SET, TUPLE, Items, Pair, Pieces, Unreadable, Value

_DIGITS = 30
_EXACT = sympy.Rational(1, 10**22)
"""The relative difference below which two numbers that were written without decimals are one."""
_ROUNDED = sympy.Rational(1, 10**6)
"""The difference below which two numbers are one where one is a decimal; relative for numbers below 1."""
_DOUBLE = sympy.Rational(1, 10**15)
"""The relative difference that calculating with a decimal makes, which counts for large ones."""
_POINTS = (
    ("17/13", "29/11", "31/7", "41/17", "7/19", "53/23"),
    ("-19/7", "23/17", "-11/13", "37/29", "-5/3", "61/31"),
    ("2", "5", "3", "7", "11", "4"),
    ("5/7", "-13/11", "19/23", "-3/17", "47/13", "-2/9"),
    ("101/3", "7", "59/2", "83/5", "97/7", "71/6"),
)
"""Values of the symbols, in their order; some are negative, some are whole."""


def is_equal(prediction: str, truth: str) -> bool:
    """Compare two answers; what can't be read or compared is equal to nothing."""
    try:
        return equal(read(prediction), read(truth))
    except Exception:  # whatever hostile mathematics can bring about in a parser and an algebra system, no memory too
        return False


def equal(one: Value, other: Value) -> bool:
    """Compare two values, whichever of them is the accepted answer."""
    if _is_equation(one) != _is_equation(other) and not isinstance(one, Items) and not isinstance(other, Items):
        one, other = _right_side(one), _right_side(other)
    if isinstance(one, (Items, Pair)) and isinstance(other, (Items, Pair)):
        return _equal_sequences(one, other)
    if isinstance(one, Items) or isinstance(other, Items):
        return _equal_to_items(*((one, other) if isinstance(one, Items) else (other, one)))
    if any(isinstance(value, (Pair, Pieces, sympy.Set)) for value in (one, other)):
        return _equal_sets(one, other)
    if isinstance(one, sympy.MatrixBase) or isinstance(other, sympy.MatrixBase):
        return _equal_matrices(one, other)
    if _is_relation(one) or _is_relation(other):
        return _is_relation(one) and _is_relation(other) and _equal_relations(one, other)
    return _equal_expressions(one, other)


def _is_equation(value: Value) -> bool:
    return isinstance(value, sympy.Eq)


def _is_relation(value: Value) -> bool:
    return isinstance(value, (Relational, sympy.And, sympy.Or))


def _right_side(value: Value) -> Value:
    """Return what an equation gives its left side, if that is a name: 5 of x = 5, 2x of f(x) = 2x."""
    is_named = _is_equation(value) and (value.lhs.is_Symbol or isinstance(value.lhs, AppliedUndef))
    return value.rhs if is_named else value


def _equal_sequences(one: Items | Pair, other: Items | Pair) -> bool:
    if isinstance(one, Pair) and isinstance(other, Pair):
        same = (one.opening, one.closing) == (other.opening, other.closing)
        return same and equal(one.start, other.start) and equal(one.end, other.end)
    kinds = {value.kind if isinstance(value, Items) else TUPLE if value.is_round else "" for value in (one, other)}
    first, second = _parts(one), _parts(other)
    if "" in kinds or kinds == {SET, TUPLE} or len(first) != len(second) or (RATIO in kinds and len(kinds) > 1):
        return False
    if kinds == {RATIO}:
        return all(equal(a * second[0], b * first[0]) for a, b in zip(first[1:], second[1:], strict=True))
    pairs_of_sides = _sides(first, second)
    if TUPLE in kinds:
        return all(equal(a, b) for a, b in zip(*pairs_of_sides, strict=True))
    return _match(*pairs_of_sides)


def _parts(value: Items | Pair) -> list[Value]:
    if isinstance(value, Pair):
        return [value.start, value.end]
    unique: list[Value] = []
    for part in value.values:
        if value.kind != SET or not any(equal(part, known) for known in unique):
            unique.append(part)
    return unique


def _sides(one: Sequence[Value], other: Sequence[Value]) -> tuple[Sequence[Value], Sequence[Value]]:
    """Return the values of `x = 1, y = 2` where the other says them without names."""
    if all(map(_is_equation, one)) != all(map(_is_equation, other)):
        return list(map(_right_side, one)), list(map(_right_side, other))
    return one, other


def _match(one: Sequence[Value], other: Sequence[Value]) -> bool:
    """Return whether values are equal in some order."""
    left = list(other)
    for value in one:
        found = next((place for place, candidate in enumerate(left) if equal(value, candidate)), None)
        if found is None:
            return False
        del left[found]
    return True


def _equal_to_items(items: Items, value: Value) -> bool:
    if items.kind == RATIO and len(items.values) == 2 and not isinstance(value, (Pair, Pieces)):
        return equal(items.values[0], value * items.values[1])
    if isinstance(value, sympy.MatrixBase):
        return items.kind == TUPLE and 1 in value.shape and equal(items, Items(TUPLE, tuple(value)))
    if isinstance(value, (Pieces, sympy.Set)):
        return _equal_sets(items, value)
    if _is_equation(value):
        value = _right_side(value)
    unique = _parts(Items(SET, items.values)) if items.kind == SET else items.values
    return items.kind != TUPLE and len(unique) == 1 and equal(_right_side(unique[0]), value)


def _equal_sets(one: Value, other: Value) -> bool:
    for value, against in ((one, other), (other, one)):
        if isinstance(value, Pair) and isinstance(against, sympy.MatrixBase):
            return value.is_round and equal(Items(TUPLE, (value.start, value.end)), against)
    try:
        first, second = _as_set(one), _as_set(other)
    except (Unreadable, TypeError, ValueError, NotImplementedError, AttributeError):
        return False
    if first == second:
        return True
    return _equal_pieces(first, second) or first.symmetric_difference(second).is_empty is True


def _equal_pieces(one: sympy.Set, other: sympy.Set) -> bool:
    """Compare intervals by their ends, which may be decimals."""
    first, second = ([*value.args] if isinstance(value, sympy.Union) else [value] for value in (one, other))
    if len(first) != len(second) or not all(isinstance(piece, sympy.Interval) for piece in (*first, *second)):
        return False
    ordered = [sorted(pieces, key=lambda piece: float(piece.start)) for pieces in (first, second)]
    return all(
        (a.left_open, a.right_open) == (b.left_open, b.right_open) and equal(a.start, b.start) and equal(a.end, b.end)
        for a, b in zip(*ordered, strict=True)
    )


def _as_set(value: Value) -> sympy.Set:
    if isinstance(value, Pair):
        return sympy.Interval(value.start, value.end, value.opening == "(", value.closing == ")")
    if isinstance(value, Pieces):
        return sympy.Union(*map(_as_set, value.values))
    if isinstance(value, Items) and value.kind != TUPLE:
        return sympy.FiniteSet(*map(_right_side, value.values))
    if _is_relation(value):
        return value.subs({symbol: sympy.Symbol(symbol.name, real=True) for symbol in value.free_symbols}).as_set()
    if isinstance(value, sympy.Set):
        return value
    raise Unreadable("no set")


def _equal_matrices(one: Value, other: Value) -> bool:
    if not (isinstance(one, sympy.MatrixBase) and isinstance(other, sympy.MatrixBase)) or one.shape != other.shape:
        return False
    return all(equal(a, b) for a, b in zip(one, other, strict=True))


def _equal_relations(one: Any, other: Any) -> bool:
    if isinstance(one, Relational) and isinstance(other, Relational):
        first, second = _normal(one), _normal(other)
        if type(first) is not type(second):
            return False
        differences = [side.lhs - side.rhs for side in (first, second)]
        if differences[0].free_symbols != differences[1].free_symbols:
            return False
        quotient = sympy.simplify(differences[0] / differences[1])
        is_scaled = quotient.is_number and quotient.is_finite and quotient.is_nonzero
        return bool(is_scaled and (quotient.is_positive or isinstance(first, (sympy.Eq, sympy.Ne))))
    if one.free_symbols != other.free_symbols:
        return False
    return len(one.free_symbols) == 1 and _equal_sets(one, other)


def _normal(relation: Relational) -> Relational:
    """Return a relation whose sign is not > or >=."""
    is_greater = isinstance(relation, (sympy.StrictGreaterThan, sympy.GreaterThan))
    return relation.reversed if is_greater else relation


def _equal_expressions(one: Any, other: Any) -> bool:
    if not (isinstance(one, sympy.Basic) and isinstance(other, sympy.Basic)):
        return False
    if one == other:
        return True
    is_rounded = any(isinstance(value, sympy.Float) for side in (one, other) for value in side.atoms(sympy.Float))
    one, other = _evaluated(one), _evaluated(other)
    if one == other:
        return True
    symbols = sorted(one.free_symbols | other.free_symbols, key=str)
    if not symbols:
        return _equal_numbers(one, other, is_rounded)
    if len(symbols) > len(_POINTS[0]):
        return bool(sympy.simplify(one - other) == 0)
    compared = 0
    for point in _POINTS:
        values = dict(zip(symbols, map(sympy.Rational, point), strict=False))
        verdict = _equal_there(one.subs(values), other.subs(values), is_rounded)
        if verdict is False:
            return False
        compared += verdict is True
    return compared > 0


def _evaluated(value: Any) -> Any:
    """Return a value with its sums and integrals worked out, and with a symbol for f(x)."""
    functions = value.atoms(AppliedUndef)
    names = {function: sympy.Symbol(f"{function.func.__name__}|{function.args}", real=True) for function in functions}
    value = value.subs(names).doit()
    return value.replace(lambda part: isinstance(part, sympy.UnevaluatedExpr), lambda part: part.args[0])


def _equal_there(one: Any, other: Any, is_rounded: bool) -> bool | None:
    """Compare two numbers; None where one of them is not real, so that what it means depends on the branch."""
    numbers = [side.evalf(_DIGITS) for side in (one, other)]
    if not all(number.is_number and number.is_finite for number in numbers):
        return None
    has_imaginary = [bool(number.has(sympy.I)) for number in numbers]
    if any(has_imaginary) and not all(side.has(sympy.I) for side in (one, other)):
        return None
    return _equal_numbers(one, other, is_rounded)


def _equal_numbers(one: Any, other: Any, is_rounded: bool) -> bool:
    if one.is_Rational and other.is_Rational:
        return bool(one == other)
    if not (one.is_finite and other.is_finite):
        return False  # infinities that are equal are the same object
    first, second = one.evalf(_DIGITS), other.evalf(_DIGITS)
    difference = abs(first - second)
    size = max(abs(first), abs(second))
    if is_rounded:
        # As math-verify has it: six places, but relative below 1, where six places would make all small numbers equal.
        return bool(difference <= max(_ROUNDED * min(sympy.Integer(1), size) * (1 + _ROUNDED), _DOUBLE * size))
    if bool(difference <= _EXACT * size):
        return True
    if 0 in (one, other):  # what is left of a number that is zero in a way that evaluation doesn't show
        return bool(sympy.simplify(one - other) == 0)
    return False
