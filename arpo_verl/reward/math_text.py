"""The comparison of mathematical answers as text, as far as it needs no algebra system."""

import re
from fractions import Fraction
from typing import NamedTuple

from arpo_verl.reward.choices import is_same_choice
from arpo_verl.reward.percent import as_fraction, is_percent, plain_percent, without_percent
from arpo_verl.reward.plain_text import without_latex
from arpo_verl.reward.quantity import CURRENCIES, MAGNITUDES, UNITS, number
from arpo_verl.reward.text_match import exact_match
from arpo_verl.reward.unwrap import fold, unwrap

_PRECISION = Fraction(1, 10**6)
"""The precision of a decimal, relative to answers below 1; math-verify rounds to 6 places as well."""
_UNESCAPED_DOLLAR = re.compile(r"(?<!\\)\$")
_PRICE = re.compile(r"\A([+-]?)\$(?=\d[^$]*\Z)")
_BASE = re.compile(r"([\dA-Fa-f]+)_\s?(?:\{\s?)?(\d+)(?:\s?\})?")
_LARGEST_BASE = 36
_PRIME = re.compile(r"(?<![A-Za-z][A-Za-z])(?<=[A-Za-z)}'])'")
_PRIME_COMMAND = re.compile(r"\s*\^\s*(?:\\prime(?![A-Za-z])|\{\s*\\prime\s*\})")
_LOGICAL_AND = re.compile(r"\\(?:land|wedge)(?![A-Za-z])|∧")
_LOGICAL_OR = re.compile(r"\\(?:lor|vee)(?![A-Za-z])|∨")
_TRIGONOMETRY = re.compile(r"\\(?:arc)?(?:sin|cos|tan|cot|sec|csc)")
_DOUBLE_STRUCK = str.maketrans(
    {letter: rf"\mathbb{{{plain}}} " for letter, plain in zip("ℝℤℚℕℂ", "RZQNC", strict=True)}
)
_ELLIPSIS = re.compile(r"(\d)\.(\d{0,20}?)(\d)\3{2,20}\s?(?:\.\.\.|…|\\l?dots)(?![\d,])")
_LATEX_THOUSANDS = re.compile(r"(?<=\d)\{,\}(?=\d{3}(?!\d))")
_IN_WORDS = re.compile(
    rf"(?P<amount>[+-]?[\d.,]{{1,30}})\s?(?:\\(?:text|mathrm)\{{\s?)?(?P<word>{'|'.join(MAGNITUDES)})(?:\s?\}})?",
    re.IGNORECASE,
)
_POWER = re.compile(r"\^\s?(-?\d+)(?!\d)")
_KNOWN_UNITS = {*UNITS.values(), *CURRENCIES.values()}
_SPACE = re.compile(r"(?<![\d\s])\s+|(?<!\s)\s+(?=[^\d\s]|$)")
"""White space that does not separate two numbers."""
_WORDS = re.compile(r"no|[A-Za-z]{3,}(?:\s+[A-Za-z]+)*", re.IGNORECASE)
"""Words, which are compared as text: the parser reads a word as a product of its letters, so that east equals seat."""
_SENTENCE = re.compile(r"(?=.*(?<![\\A-Za-z])[A-Za-z]{4})[^\\=^_{}\[\]()<>|+*/]+")
_SET_UNIT = re.compile(
    r"\\(?:text|textrm|mathrm|rm|mbox|hbox|textnormal)\s?\{\s?(?P<name>[A-Za-z°%][^{}\\$]{0,40}?)\s?\}\s?(?:\^\s?\{?(?P<power>[23])\}?)?$"
)
_SPACING = re.compile(r"(?:\\[,;:! ]|~|\s)+\Z")
_DEGREE = re.compile(r"(?:\^\s?\{?\s?\\circ\s?\}?|°)\s?(?:\\(?:text|mathrm)\s?\{\s?)?(?P<scale>[CF]?)(?:\s?\})?$")
_PLAIN_UNIT = re.compile(r"(?<=[\d})])(?P<gap>\s{0,3})(?P<name>[A-Za-z][A-Za-z/]{0,30})(?:\^?\{?(?P<power>[23])\}?)?$")
_CURRENCY = re.compile(
    rf"(?P<before>\\?[{re.escape(''.join(CURRENCIES))}])?(?P<amount>.*?)(?P<after>\\?[€£¥])?", re.DOTALL
)
_PHRASES = {
    **dict.fromkeys(("no solution", "no solutions", "no real solutions", "empty set", "the empty set"), r"\emptyset"),
    **dict.fromkeys(("all real numbers", "all reals", "the real numbers"), r"\mathbb{R}"),
}
_ONE_LETTER_UNITS = {"m", "s", "g", "h", "l"}
_NO_UNITS = {
    "and", "or", "if", "where", "when", "for", "is", "mod", "modulo", "pi", "squared", "cubed", "factorial", "times",
    "plus", "minus", "over", "half", "halves", "third", "thirds", "quarter", "quarters", "fourths", "fifths", "dozen",
    "root", "sqrt", "sin", "cos", "tan", "log", "exp", "oo", "inf", "choose", "th", "st", "nd", "rd", *MAGNITUDES,
}  # fmt: skip


class Measured(NamedTuple):
    """An answer and the unit that stands beside it."""

    text: str
    unit: str | None


def tidy(text: str) -> str:
    r"""Remove what surrounds an answer, and write in LaTeX what Unicode writes otherwise.

    >>> tidy(r"$\text{ east }$"), tidy("x²⁰"), tidy("0.333...")
    ('east', 'x^{20}', '0.\\overline{3}')
    """
    text = _PRIME_COMMAND.sub("'", text)
    text = _LATEX_THOUSANDS.sub(",", fold(text.translate(_DOUBLE_STRUCK)))
    text = _ELLIPSIS.sub(r"\1.\2\\overline{\3}", text)
    text = _PRICE.sub(r"\1\\$", unwrap(text))
    text = unwrap(_UNESCAPED_DOLLAR.sub("", text))
    text = _PHRASES.get(text.casefold(), text)
    if (words := _IN_WORDS.fullmatch(text)) and (amount := number(words["amount"])) is not None:
        text = str(amount * 10 ** MAGNITUDES[words["word"].lower()])
    return plain_percent(_POWER.sub(r"^{\1}", text))


def decide(answer: str, truth: str) -> bool | None:
    """Return whether two tidy answers are equal if they are the same text, numbers, choices, or text of words.

    Returns:
        None for anything else.
    """
    one, other = _SPACE.sub("", answer), _SPACE.sub("", truth)
    if one and one == other:
        return True
    if is_same_choice(answer, truth) or is_same_choice(without_latex(answer), without_latex(truth)):
        return True
    if _numeral(answer) or _numeral(truth):
        return _same_numerals(answer, truth)
    found, expected = measured(answer), measured(truth)
    units = (found.unit, expected.unit)
    if all(units) and found.unit != expected.unit:
        return False
    if is_percent(found.text) != is_percent(expected.text) and not _KNOWN_UNITS.isdisjoint(filter(None, units)):
        return False
    if _say_otherwise(answer, truth):
        return False
    if (same := _same_numbers(found.text, expected.text)) is not None:
        return same
    if _WORDS.fullmatch(answer) and _WORDS.fullmatch(truth):
        return answer.casefold().split() == truth.casefold().split()
    if _SENTENCE.fullmatch(answer) and _SENTENCE.fullmatch(truth):
        return exact_match(answer, [truth]) == 1
    return None


def _say_otherwise(answer: str, truth: str) -> bool:
    r"""Return whether two tidy answers differ in what the parser loses: primes, and `\land` for `\lor`.

    >>> _say_otherwise("f'(x)", "f(x)"), _say_otherwise(r"p \land q", r"p \lor q"), _say_otherwise("y'=x", "x")
    (True, True, False)
    """
    primes = [len(_PRIME.findall(text.rpartition("=")[2])) for text in (answer, truth)]
    logic = [(bool(_LOGICAL_AND.search(text)), bool(_LOGICAL_OR.search(text))) for text in (answer, truth)]
    return primes[0] != primes[1] or set(logic) == {(True, False), (False, True)}


def _same_numerals(answer: str, truth: str) -> bool:
    """Return whether two numerals have the same digits in the same base, which may be left out in one of them."""
    one, other = _numeral(answer), _numeral(truth)
    digits = [match[1] if match else text for match, text in ((one, answer), (other, truth))]
    return digits[0].upper() == digits[1].upper() and (not (one and other) or one[2] == other[2])


def _numeral(text: str) -> re.Match[str] | None:
    """Return the digits and the base of a numeral such as `1010_2`; `C_1` is none, but a symbol with an index."""
    match = _BASE.fullmatch(text)
    is_one = match and 2 <= int(match[2]) <= _LARGEST_BASE and all(int(one, 16) < int(match[2]) for one in match[1])
    return match if is_one else None


def comparison_pairs(answer: str, truth: str) -> list[tuple[str, str]]:
    r"""Return the pairs of which one has to be equal for an algebra system, of a tidy answer and a tidy accepted one.

    They have no units. Where one is in degrees and the other has no unit, that may be in degrees or in radians; where
    one is in percent and the other is not, that may be the number of percent or the share.

    >>> comparison_pairs(r"30^\circ", r"\frac{\pi}{6}")
    [('30', '\\frac{\\pi}{6}'), ('30', '(\\frac{\\pi}{6})\\cdot\\frac{180}{\\pi}')]
    >>> comparison_pairs("50%", r"\frac12")
    [('50', '\\frac12'), ('\\frac{50}{100}', '\\frac12')]
    """
    found, expected = measured(answer), measured(truth)
    pairs = [(without_percent(found.text), without_percent(expected.text))]
    if is_percent(found.text) != is_percent(expected.text):
        pairs.append((as_fraction(found.text), as_fraction(expected.text)))
    if "degree" in (found.unit, expected.unit) and None in (found.unit, expected.unit):
        factor = r"\frac{180}{\pi}" if found.unit else r"\frac{\pi}{180}"
        pairs.append((found.text, rf"({expected.text})\cdot{factor}"))
    return pairs


def measured(text: str) -> Measured:
    r"""Split a tidy answer into what is measured and the unit, by its name.

    >>> tuple(measured(r"12\text{ cm}")), tuple(measured(r"\$5")), tuple(measured("5t"))
    (('12', 'centimeter'), ('5', 'dollar'), ('5t', None))
    """
    money = _CURRENCY.fullmatch(text)
    if money and (money["before"] or money["after"]) and money["amount"].strip():
        sign = (money["before"] or money["after"]).removeprefix("\\")
        return Measured(money["amount"].strip(), CURRENCIES[sign])
    if (degree := _DEGREE.search(text)) and degree.start() and not _TRIGONOMETRY.search(text):
        scale = {"C": " celsius", "F": " fahrenheit"}.get(degree["scale"], "")
        return Measured(text[: degree.start()].strip(), "degree" + scale)
    for pattern in (_SET_UNIT, _PLAIN_UNIT):
        match = pattern.search(text)
        amount = _SPACING.sub("", text[: match.start()]) if match else ""
        if match and amount and amount[-1] not in "^_=(," and (name := _unit(match.groupdict())):
            return Measured(amount, name)
    return Measured(text, None)


def _unit(parts: dict[str, str | None]) -> str | None:
    """Return the name of a unit, None if the text can't be one."""
    name = str(parts["name"]).strip().rstrip(".")
    known = name.lower() in UNITS
    if "gap" in parts:
        least = 3 if parts["gap"] else 2
        if len(name) == 1 and not (parts["gap"] and name in _ONE_LETTER_UNITS):
            return None
        if not known and (len(name) < least or not parts["gap"]):
            return None
    if name.lower() in _NO_UNITS or (not known and not re.fullmatch(r"[A-Za-z .-]+", name)):
        return None
    powered = f"{name.lower()}^{parts['power']}" if parts.get("power") else name.lower()
    return UNITS.get(powered, powered if powered.endswith("ss") else powered.removesuffix("s"))


def _same_numbers(answer: str, truth: str) -> bool | None:
    """Return whether two plain numbers are equal, None if one of them is none."""
    value, expected = _value(answer), _value(truth)
    if value is None or expected is None:
        return None
    is_decimal = not {".", "e", "E"}.isdisjoint(answer + truth)
    tolerance = _PRECISION * min(Fraction(1), max(abs(value), abs(expected))) if is_decimal else Fraction(0)
    if is_percent(answer) == is_percent(truth):
        return abs(value - expected) <= tolerance
    share, plain = (value, expected) if is_percent(answer) else (expected, value)
    return min(abs(share - plain), abs(share / 100 - plain)) <= tolerance


def _value(text: str) -> Fraction | None:
    """Return the value of a plain number; of 50%, 50."""
    return number(text.removesuffix("%"))
