r"""Reads an answer of mathematics: brackets, lists and unions here, what stands in them by math-verify's LaTeX parser.

The parser (latex2sympy2_extended 1.11) can't tell a set from a tuple that was sorted, folds the case of symbols unless
it is asked not to, reads `1 1/2` as 1 and `3 4` as 12, takes i for a symbol, and \gamma(x) for the function \Gamma(x);
all of that is settled here.
"""

import re

import sympy
from latex2sympy2_extended.latex2sympy2 import (
    ConversionConfig,
    NormalizationConfig,
    latex2sympy,
    normalize_latex,
)

from .python_reading import read_python
from .values import LIST, RATIO, SET, TUPLE, Items, Pair, Pieces, Unreadable, Value

_NORMALISATION = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
)
_CONVERSION = ConversionConfig(lowercase_symbols=False)
_IMAGINARY = {sympy.Symbol(name, real=True): sympy.I for name in ("i", "imath")}
_OPENING = {r"\{": r"\}", "{": "}", "(": ")", "[": "]", r"\langle": r"\rangle", r"\lbrace": r"\rbrace"}
_BRACKETS = re.compile(
    r"\\begin\{|\\end\{|\\[{}]|\\[lr]angle(?![a-z])|\\[lr]brace(?![a-z])|[{}()\[\]]|\\.|[^\\]", re.DOTALL
)
_GROUPED_NUMBER = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_CONJUNCTION = r"\s*,?\s*(?:\\(?:text|mathrm|mbox)\s*\{{\s*{0}\s*\}}|(?<![A-Za-z\\]){0}(?![A-Za-z])|{1})\s*"
_OR = re.compile(_CONJUNCTION.format("or", r"\\lor(?![a-z])|\\vee(?![a-z])|\|\|"))
_AND = re.compile(_CONJUNCTION.format("and", r"\\land(?![a-z])|\\wedge(?![a-z])|&&"))
_CUP = re.compile(r"\s*(?:\\cup(?![a-z])|∪)\s*")
_ELEMENT_OF = re.compile(r"\s*\\?[A-Za-z](?:_\{?\w+\}?)?\s*(?:\\in(?![a-z])|∈)\s*")
_MIXED = re.compile(
    r"(?<![\d.}/^_])(-?)\s*(\d+)\s+(?:(\d+)\s*/\s*(\d+)|\\[dt]?frac\s*\{(\d+)\}\s*\{(\d+)\}|\\[dt]?frac\s*(\d)\s*(\d))(?![\d/])"
)
_GAP = re.compile(r"(?<![_^\d.])\d[\d.]*\s+\d")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{?(\d+)\}?")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*(?:\^\s*\{?\s*\\circ\s*\}?|°)")
_SCIENTIFIC = re.compile(r"(?<![\w.])(\d+(?:\.\d*)?|\.\d+)[eE]([+-]?\d{1,4})(?!\w)")
_CHARACTERS = {
    "√": r"\sqrt ", "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "×": r"\times ",
    "·": r"\cdot ", "÷": r"\div ", "±": r"\pm ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "∩": r"\cap ",
    "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "φ": r"\phi ", "λ": r"\lambda ", "Δ": r"\Delta ",
    r"\varnothing": r"\emptyset", r"\leqslant": r"\le", r"\geqslant": r"\ge", r"\neq": r"\ne ",
    r"\infin": r"\infty", r"\mathrm{i}": "i", r"\mathit{i}": "i", r"\text{i}": "i", r"\mathrm{e}": "e",
    r"\dbinom": r"\binom", r"\tbinom": r"\binom",
    r"\lg": r"\log_{10}", r"\dots": ", ", r"\operatorname{arcsin}": r"\arcsin", r"\operatorname{arccos}": r"\arccos",
    r"\operatorname{arctan}": r"\arctan", r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\cfrac": r"\frac",
    r"\left": "", r"\right": "", r"\big": "", r"\Big": "", r"\,": " ", r"\;": " ", r"\!": "", r"\:": " ", r"\ ": " ",
}  # fmt: skip
_CHARACTER = re.compile(
    "|".join(re.escape(key) + ("(?![a-zA-Z])" if key[-1].isalpha() and key[0] == "\\" else "") for key in _CHARACTERS)
)
_BY_PROPERTY = re.compile(
    r"\s*[A-Za-z]\s*(?:\\in\s*(?:\\mathbb\s*\{?[RQ]\}?)\s*)?(?:\\mid(?![a-z])|\\vert(?![a-z])|\||:)(.+)"
)
"""`x | x > 2`"""
_FRACTION_OF_COMMANDS = re.compile(r"\\frac\s*(\\[A-Za-z]+)\s*(\d|[a-z]|\\[A-Za-z]+)(?![A-Za-z{])")
_BARE_NAME = re.compile(r"(?<![\\A-Za-z])(arcsin|arccos|arctan|sin|cos|tan|ln|log|exp|pi)(?![A-Za-z])")
_CHOOSE = re.compile(r"\{?([^{}\\]{1,40})\\choose\s*([^{}\\]{1,40})\}?")
_BINOMIAL = re.compile(r"\\binom\s*(\d)\s*(\d)")
_CASES = re.compile(r"\\begin\{(cases|aligned|array)\}((?:(?!\\begin|\\end|&).)*)\\end\{\1\}", re.DOTALL)
"""A system of equations, one a line."""
_NAMED_TUPLE = re.compile(r"\s*\(\s*[A-Za-z]\w?(?:\s*,\s*[A-Za-z]\w?)+\s*\)\s*=\s*(?=[(\\])")
"""`(x, y) = (1, 2)`"""
_DERIVATIVE = re.compile(r"\\frac\s*\{\s*d\s*([A-Za-z])\s*\}\s*\{\s*d\s*([A-Za-z])\s*\}")
"""That of one symbol by another, which is 0 for SymPy."""
_SMALL_GAMMA = re.compile(r"\\gamma(?=\s*\()")
_ROOT = re.compile(r"\\sqrt\s+(\d+|[A-Za-z])")


def read(text: str) -> Value:
    """Return what a text says.

    Raises:
        Unreadable: nothing that can be read here.
    """
    try:
        return read_python(text)
    except Unreadable:
        pass
    text = _CHARACTER.sub(lambda match: _CHARACTERS[match[0]], text)
    text = _FRACTION_OF_COMMANDS.sub(r"\\frac{\1}{\2}", text)
    text = _ROOT.sub(r"\\sqrt{\1}", _SMALL_GAMMA.sub(r"\\gamma\\cdot ", text))
    text = _DERIVATIVE.sub(r"D_{\1\2}", text)
    text = _BINOMIAL.sub(r"\\binom{\1}{\2}", _CHOOSE.sub(r"\\binom{\1}{\2}", text))
    text = _CASES.sub(lambda cases: ", ".join(filter(str.strip, cases[2].split(r"\\"))), text)
    text = _NAMED_TUPLE.sub("", text, count=1) if _NAMED_TUPLE.match(text) else text
    text = _REPEATING.sub(_repeating, _BARE_NAME.sub(r"\\\1", text))
    text = _MIXED.sub(_mixed, _SCIENTIFIC.sub(r"{\1\\cdot 10^{\2}}", text))
    return _read(text)


def _read(text: str) -> Value:
    text = text.strip().removesuffix(",")
    if not text:
        raise Unreadable("nothing")
    if member := _ELEMENT_OF.match(text):
        text = text[member.end() :]
    if len(parts := _split(text, _CUP)) > 1:
        return Pieces(tuple(map(_read, parts)))
    if len(parts := _split(text, _OR)) > 1:
        return _several(parts, Pieces)
    if inside := _enclosed(text):
        return _bracketed(*inside)
    if _GROUPED_NUMBER.fullmatch(text):
        return _expression(text)
    parts = [part for piece in _split(text, _AND) for part in _elements(piece)]
    if len(parts) > 1:
        return _several(parts, None)
    if len(parts := _split(text, re.compile(r"\s*:\s*"))) > 1:
        return Items(RATIO, tuple(map(_expression, parts)))
    return _flat(_expression(text))


def _several(parts: list[str], union: "type[Pieces] | None") -> Value:
    values = [_read(part) for part in parts]
    if union and all(_is_inequality(value) for value in values):
        return union(tuple(values))
    if not union and all(_is_inequality(value) for value in values):
        return sympy.And(*values)
    flat = [inner for value in values for inner in (value.values if _is_list(value) else (value,))]
    return Items(LIST, tuple(flat))


def _is_inequality(value: Value) -> bool:
    is_relation = isinstance(value, sympy.core.relational.Relational) and not isinstance(value, sympy.Eq)
    return is_relation or isinstance(value, (sympy.And, Pieces))


def _is_list(value: Value) -> bool:
    return isinstance(value, Items) and value.kind == LIST


def _bracketed(opening: str, content: str, closing: str) -> Value:
    if opening in (r"\{", r"\lbrace", "{"):
        if (described := _BY_PROPERTY.fullmatch(content)) is not None:
            return _read(described[1])
        values = [_read(part) for part in _elements(content)] if content.strip() else []
        flat = [inner for value in values for inner in (value.values if _is_list(value) else (value,))]
        return Items(SET, tuple(flat)) if opening != "{" or len(flat) != 1 else flat[0]
    parts = _elements(content)
    if opening == r"\langle":
        opening, closing = "(", ")"
    if len(parts) == 1 and opening + closing in ("()", "[]"):  # one number in a list, as Python prints it
        return _read(parts[0])
    values = [_read(part) for part in parts]
    if len(values) == 2:
        return Pair(opening, values[0], values[1], closing)
    return Items(TUPLE, tuple(values))


def _expression(text: str) -> Value:
    if _GAP.search(text):
        raise Unreadable("numbers side by side")
    latex = _DEGREES.sub(r"(\1\\cdot\\frac{\\pi}{180})", text)
    parts = re.split(r"(?<![\\<>!=])=(?!=)", latex)
    if len(parts) > 2:  # a chain of equations: its first side is its last one
        latex = f"{parts[0]}={parts[-1]}"
    try:
        value = latex2sympy(
            normalize_latex(latex, _NORMALISATION),
            is_real=True,
            convert_degrees=False,
            normalization_config=None,
            conversion_config=_CONVERSION,
        )
    except Exception as error:  # whatever a parser of hostile text can raise
        raise Unreadable(text) from error
    return value.subs(_IMAGINARY) if getattr(value, "free_symbols", set()) & _IMAGINARY.keys() else value


def _flat(value: Value) -> Value:
    """Return a set that the parser made, of `\\pm 2` for one, as a list."""
    if isinstance(value, sympy.FiniteSet):
        return Items(LIST, tuple(value.args))
    if isinstance(value, sympy.Eq) and isinstance(value.rhs, sympy.FiniteSet):
        return Items(LIST, tuple(sympy.Eq(value.lhs, one, evaluate=False) for one in value.rhs.args))
    return value


def _mixed(match: re.Match[str]) -> str:
    sign, whole, *parts = match.groups()
    numerator, denominator = (part for part in parts if part is not None)
    return rf"{sign}\frac{{{int(whole) * int(denominator) + int(numerator)}}}{{{denominator}}}"


def _repeating(match: re.Match[str]) -> str:
    whole, fixed, block = match.groups()
    denominator = (10 ** len(block) - 1) * 10 ** len(fixed)
    numerator = int(whole + fixed + block) - int(whole + fixed or 0)
    return rf"\frac{{{numerator}}}{{{denominator}}}"


def _enclosed(text: str) -> tuple[str, str, str] | None:
    """Return opening, content and closing of the brackets around a whole text, half-open intervals included."""
    opening = next((bracket for bracket in _OPENING if text.startswith(bracket)), None)
    if outward := _outward(text):
        return outward
    if opening is None:
        return None
    depth = 0
    for position, token, step in _steps(text):
        depth += step
        if depth == 0 and position + len(token) < len(text):
            return None
        if depth == 0:
            return opening, text[len(opening) : position], token
    return None


def _outward(text: str) -> tuple[str, str, str] | None:
    """Return an interval whose open ends are written as outward brackets: `]0,1[`."""
    if not re.fullmatch(r"\][^\[\]()]*[\[\])]|[(\[][^\[\]()]*\[", text):
        return None
    return {"]": "("}.get(text[0], text[0]), text[1:-1], {"[": ")"}.get(text[-1], text[-1])


def _steps(text: str) -> list[tuple[int, str, int]]:
    """Return the tokens of a text with their places and by how much each deepens the nesting of brackets."""
    steps = []
    for match in _BRACKETS.finditer(text):
        token = match[0]
        if token in (r"\begin{", r"\end{"):
            step = 2 if token == r"\begin{" else 0  # the brace after its name takes one back, that of \end the other
        elif token in (r"\{", "{", "(", "[", r"\langle", r"\lbrace"):
            step = 1
        elif token in (r"\}", "}", ")", "]", r"\rangle", r"\rbrace"):
            step = -1
        else:
            step = 0
        steps.append((match.start(), token, step))
    return steps


def _split(text: str, separator: re.Pattern[str]) -> list[str]:
    """Split a text where a separator stands outside of all brackets; whole if the brackets don't fit."""
    depths = [0] * (len(text) + 1)
    depth = 0
    for position, token, step in _steps(text):
        depth += min(step, 0)
        for place in range(position, position + len(token)):
            depths[place] = depth
        depth += max(step, 0)
        if depth < 0:
            return [text]
    parts, start = [], 0
    for match in separator.finditer(text):
        if depths[match.start()] == 0 and match.end() > match.start():
            parts.append(text[start : match.start()])
            start = match.end()
    return [*parts, text[start:]]


def _elements(text: str) -> list[str]:
    """Split at commas and semicolons; where there are commas with a space, 1,000 is one number."""
    if _GROUPED_NUMBER.fullmatch(text.strip()):
        return [text]
    if ";" in text:
        return _split(text, re.compile(r"\s*;\s*"))
    spaced = _split(text, re.compile(r"\s*,\s+"))
    if len(spaced) > 1 and any(_GROUPED_NUMBER.fullmatch(part.strip()) for part in spaced):
        return spaced
    if _GAP.search(text) and "," not in text and re.fullmatch(r"[-+\d.\s]+", text):
        return text.split()  # 3 4 5: three numbers
    return _split(text, re.compile(r"\s*,\s*"))
