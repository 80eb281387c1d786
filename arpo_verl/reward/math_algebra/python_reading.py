"""Reads expressions as Python and SymPy print them: `3 - 4*I`, `Rational(1, 2)`, `Interval.open(0, oo)`, `x**-1`.

Nothing is evaluated as Python: the syntax tree is walked, and only the names below mean anything. SymPy's own parser
evaluates what it is given.
"""

import ast
import re
from collections.abc import Callable
from typing import Any

import sympy

from .values import LIST, SET, TUPLE, Items, Pair, Pieces, Unreadable, Value

_CONSTANTS = {
    "pi": sympy.pi, "E": sympy.E, "I": sympy.I, "oo": sympy.oo, "inf": sympy.oo, "zoo": sympy.zoo, "nan": sympy.nan,
    "GoldenRatio": sympy.GoldenRatio, "EulerGamma": sympy.EulerGamma, "Catalan": sympy.Catalan,
    "EmptySet": sympy.S.EmptySet, "Reals": sympy.S.Reals, "Integers": sympy.S.Integers, "Naturals": sympy.S.Naturals,
    "Naturals0": sympy.S.Naturals0, "Rationals": sympy.S.Rationals, "Complexes": sympy.S.Complexes,
}  # fmt: skip
_FUNCTIONS = [
    "sqrt",
    "cbrt",
    "root",
    "exp",
    "log",
    "ln",
    "sin",
    "cos",
    "tan",
    "cot",
    "sec",
    "csc",
    "asin",
    "acos",
    "atan",
    "acot",
    "asec",
    "acsc",
    "atan2",
    "sinh",
    "cosh",
    "tanh",
    "coth",
    "asinh",
    "acosh",
    "atanh",
    "Abs",
    "re",
    "im",
    "conjugate",
    "arg",
    "sign",
    "floor",
    "ceiling",
    "factorial",
    "factorial2",
    "binomial",
    "gamma",
    "Min",
    "Max",
    "Mod",
    "gcd",
    "lcm",
    "fibonacci",
    "lucas",
    "harmonic",
    "zeta",
    "LambertW",
    "erf",
    "erfc",
    "Rational",
    "Integer",
    "Float",
    "Add",
    "Mul",
    "Pow",
    "Eq",
    "Ne",
    "Lt",
    "Le",
    "Gt",
    "Ge",
    "And",
    "Or",
    "Not",
    "Piecewise",
    "Sum",
    "Product",
    "Integral",
    "Derivative",
    "Limit",
    "Heaviside",
    "Complement",
    "Intersection",
]
_ALIASES = {
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "abs": "Abs", "fabs": "Abs", "ceil": "ceiling",
    "comb": "binomial", "Fraction": "Rational", "Decimal": "Float", "float64": "Float", "float32": "Float",
    "int64": "Integer", "Mod": "Mod", "complex": "complex", "power": "Pow", "pow": "Pow", "round": "Float",
    "float": "Float", "int": "Integer",
}  # fmt: skip
_MODULES = {"math", "np", "numpy", "sp", "sympy", "cmath", "S"}
_NAMES = "|".join(sorted({*_FUNCTIONS, *_ALIASES, "Matrix", "ImmutableMatrix", "Interval", "FiniteSet", "Union"}))
_LONG_CONSTANTS = "|".join(name for name in _CONSTANTS if len(name) > 3)
_LOOKS_LIKE_PYTHON = re.compile(
    rf"\*|(?<![A-Za-z\\])(?:{_NAMES})\s*[.(]|(?<![A-Za-z])(?:oo|zoo|inf|nan|I|{_LONG_CONSTANTS})(?![A-Za-z])"
    rf"|\) ?[&|] ?\(|\{{ ?\w+ ?: ?|\d[eE][+-]?\d|(?:np|math|sympy|sp)\.|\d[jJ](?![A-Za-z])"
)
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: lambda a, b: a**b,
    ast.Mod: lambda a, b: sympy.Mod(a, b),
    ast.FloorDiv: lambda a, b: sympy.floor(a / b),
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: sympy.StrictLessThan, ast.LtE: sympy.LessThan, ast.Gt: sympy.StrictGreaterThan,
    ast.GtE: sympy.GreaterThan, ast.Eq: sympy.Eq, ast.NotEq: sympy.Ne,
}  # fmt: skip


def read_python(text: str) -> Value:
    """Return what a text says as Python.

    Raises:
        Unreadable: it has nothing that marks it as Python, is none, or has a name that is not known here.
    """
    if "\\" in text or not _LOOKS_LIKE_PYTHON.search(text):
        raise Unreadable(text)
    source = text.replace("^", "**").replace("{}", "set()").strip()
    try:
        body = ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise Unreadable(text) from None
    if isinstance(body, ast.Tuple) and not source.startswith("("):
        return Items(LIST, tuple(_value(element) for element in body.elts))
    return _value(body)


def _value(node: ast.AST) -> Value:
    reader = _READERS.get(type(node))
    if reader is None:
        raise Unreadable(ast.dump(node)[:80])
    return reader(node)


def _constant(node: ast.Constant) -> Value:
    value = node.value
    if isinstance(value, bool) or not isinstance(value, (int, float, complex)):
        raise Unreadable(repr(value))
    if isinstance(value, complex):
        return sympy.I * sympy.Rational(repr(value.imag))
    # A float's digits are what was written.
    return sympy.Integer(value) if isinstance(value, int) else sympy.Float(repr(value))


def _name(node: ast.Name) -> Value:
    if node.id in _CONSTANTS:
        return _CONSTANTS[node.id]
    if node.id.startswith("_") or len(node.id) > 12:
        raise Unreadable(node.id)
    return sympy.Symbol(node.id, real=True)


def _attribute(node: ast.Attribute) -> Value:
    if isinstance(node.value, ast.Name) and node.value.id in _MODULES and node.attr.rstrip("_") in {"pi", "e", "inf"}:
        return {"pi": sympy.pi, "e": sympy.E, "inf": sympy.oo}[node.attr]
    if isinstance(node.value, ast.Name) and node.value.id in _MODULES and node.attr in _CONSTANTS:
        return _CONSTANTS[node.attr]
    raise Unreadable(node.attr)


def _binary(node: ast.BinOp) -> Value:
    if isinstance(node.op, (ast.BitAnd, ast.BitOr)):
        sides = (_value(node.left), _value(node.right))
        return Pieces(sides) if isinstance(node.op, ast.BitOr) else sympy.And(*sides)
    if type(node.op) not in _BINARY:
        raise Unreadable(type(node.op).__name__)
    return _BINARY[type(node.op)](_value(node.left), _value(node.right))


def _unary(node: ast.UnaryOp) -> Value:
    operand = _value(node.operand)
    if isinstance(node.op, ast.USub):
        return -operand
    if isinstance(node.op, ast.UAdd):
        return operand
    raise Unreadable(type(node.op).__name__)


def _bool(node: ast.BoolOp) -> Value:
    values = tuple(map(_value, node.values))
    return Pieces(values) if isinstance(node.op, ast.Or) else sympy.And(*values)


def _compare(node: ast.Compare) -> Value:
    sides = [_value(side) for side in (node.left, *node.comparators)]
    relations = [
        _COMPARE[type(op)](left, right) if type(op) in _COMPARE else _refuse(op)
        for op, left, right in zip(node.ops, sides, sides[1:], strict=False)
    ]
    return relations[0] if len(relations) == 1 else sympy.And(*relations)


def _refuse(op: ast.AST) -> Value:
    raise Unreadable(type(op).__name__)


def _dictionary(node: ast.Dict) -> Value:
    keys = [_value(key) if key is not None else _refuse(node) for key in node.keys]
    pairs = zip(keys, map(_value, node.values), strict=True)
    return Items(LIST, tuple(sympy.Eq(key, value) for key, value in pairs))


def _call(node: ast.Call) -> Value:
    name = _function_name(node.func)
    values = [_argument(argument) for argument in node.args]
    if name in ("Matrix", "ImmutableMatrix"):
        return _matrix(node)
    if name == "FiniteSet":
        return Items(SET, tuple(values))
    if name == "set" and not values:
        return Items(SET, ())
    if name == "Union":
        return Pieces(tuple(values))
    if name.startswith("Interval"):
        return _interval(name, values)
    if name == "complex" and len(values) == 2:
        return values[0] + sympy.I * values[1]
    if name in ("Sum", "Product", "Integral", "Limit", "Piecewise", "Derivative"):
        values = [tuple(value.values) if isinstance(value, Items) else value for value in values]
    if _ALIASES.get(name, name) not in _FUNCTIONS:
        raise Unreadable(name)
    return getattr(sympy, _ALIASES.get(name, name))(*values)


def _argument(node: ast.expr) -> Any:
    """Return an argument; `Float('0.5')` and `Fraction('1/2')` have a number as text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"[-+\d./eE]{1,60}", node.value):
        return sympy.Rational(node.value)
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        return node.value
    return _value(node)


def _function_name(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return (
            f"Interval.{node.attr}" if node.value.id == "Interval" else node.attr if node.value.id in _MODULES else ""
        )
    raise Unreadable("a call of what is no name")


def _interval(name: str, values: list[Any]) -> Value:
    kinds = {"Interval": "[]", "Interval.open": "()", "Interval.Lopen": "(]", "Interval.Ropen": "[)"}
    if name not in kinds or not 2 <= len(values) <= 4:
        raise Unreadable(name)
    start, end, *is_open = values
    opening, closing = kinds[name][0], kinds[name][1]
    if is_open and is_open[0]:
        opening = "("
    if len(is_open) > 1 and is_open[1]:
        closing = ")"
    # SymPy prints the end of a half-line as closed: Interval(-oo, 3).
    return Pair("(" if start == -sympy.oo else opening, start, end, ")" if end == sympy.oo else closing)


def _matrix(node: ast.Call) -> Value:
    if len(node.args) == 3:
        rows, columns, cells = [_value(argument) for argument in node.args]
        return sympy.Matrix(rows, columns, list(cells.values))
    if len(node.args) != 1 or not isinstance(node.args[0], (ast.List, ast.Tuple)):
        raise Unreadable("a matrix of something else")
    rows_read = [
        [_value(cell) for cell in row.elts] if isinstance(row, (ast.List, ast.Tuple)) else [_value(row)]
        for row in node.args[0].elts
    ]
    return sympy.Matrix(rows_read)


def _sequence(kind: str) -> Callable[[Any], Value]:
    def read(node: ast.Tuple | ast.List | ast.Set) -> Value:
        values = tuple(map(_value, node.elts))
        return Pair("(", *values, ")") if kind == TUPLE and len(values) == 2 else Items(kind, values)

    return read


_READERS: dict[type[ast.AST], Callable[[Any], Value]] = {
    ast.Constant: _constant,
    ast.Name: _name,
    ast.Attribute: _attribute,
    ast.BinOp: _binary,
    ast.UnaryOp: _unary,
    ast.BoolOp: _bool,
    ast.Compare: _compare,
    ast.Call: _call,
    ast.Dict: _dictionary,
    ast.Tuple: _sequence(TUPLE),
    ast.List: _sequence(LIST),
    ast.Set: _sequence(SET),
}
