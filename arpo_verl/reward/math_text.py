"""Mathematical answers as text: what can be said of two of them without an algebra system."""

import re
from fractions import Fraction

from arpo_verl.reward.quantity import LONGEST_NUMBER, number

_PRECISION = Fraction(1, 10**6)
"""Of a decimal, relative to answers below 1; math-verify rounds to 6 places as well."""
_UNESCAPED_DOLLAR = re.compile(r"(?<!\\)\$")
_WRAPPER = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf)\s*\{([^{}]*)\}")
_BARE_NAME = re.compile(r"(?<![\\A-Za-z])(arcsin|arccos|arctan|sin|cos|tan|ln|log|exp|pi)(?![A-Za-z])")
_PERCENT = re.compile(r"(?<!\s)\s*\\?%$")
"""Looked for from where white space begins only: at each of its places it would take quadratic time."""
_EXPONENT = re.compile(r"([+-]?\d+(?:\.\d*)?)[eE]([+-]?\d{1,2})")
_WORDS = re.compile(r"no|[A-Za-z]{3,}(?:\s+[A-Za-z]+)*", re.IGNORECASE)
"""What is compared as text: math-verify takes a word for a product of its letters, in which east equals seat."""


def tidy(text: str) -> str:
    r"""Remove what surrounds an answer, and write what Python prints (`2*pi`, `x**2`) as LaTeX.

    >>> tidy(r"$\text{ east }$"), tidy("x**2 + sin(pi)")
    ('east', 'x^2 + \\sin(\\pi)')
    """
    text = _UNESCAPED_DOLLAR.sub("", text).strip()
    if wrapped := _WRAPPER.fullmatch(text):
        text = wrapped[1].strip()
    if not text.endswith(r"\right."):
        text = text.removesuffix(".")
    return _BARE_NAME.sub(r"\\\1", text.replace("**", "^"))


def decide(answer: str, truth: str) -> bool | None:
    """Return whether two tidy answers are equal if they are the same text, two numbers or two texts of words.

    Returns:
        None for anything else.
    """
    one, other = "".join(answer.split()), "".join(truth.split())
    if one and one == other:
        return True
    value, expected = _value(answer), _value(truth)
    if value is not None and expected is not None:
        tolerance = _PRECISION * min(Fraction(1), abs(expected)) if _is_decimal(answer + truth) else Fraction(0)
        if bool(_PERCENT.search(answer)) == bool(_PERCENT.search(truth)):
            return abs(value - expected) <= tolerance
        # Whether an answer is asked for in percent is not known here: 50% is 0.5 and 50.
        share, plain = (value, expected) if _PERCENT.search(answer) else (expected, value)
        return min(abs(share - plain), abs(share / 100 - plain)) <= tolerance
    if _WORDS.fullmatch(answer) and _WORDS.fullmatch(truth):
        return answer.lower().split() == truth.lower().split()
    return None


def _value(text: str) -> Fraction | None:
    """Return the value of a plain number; of 50%, 50."""
    text = _PERCENT.sub("", text)
    if len(text) <= LONGEST_NUMBER and (match := _EXPONENT.fullmatch(text)):
        return Fraction(match[1]) * Fraction(10) ** int(match[2])
    return number(text)


def _is_decimal(text: str) -> bool:
    return not {".", "e", "E"}.isdisjoint(text)
