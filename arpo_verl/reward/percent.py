r"""Percentages in mathematical answers: `50\%`, `50 percent`, `33\frac13\%`, `20\% < x < 30\%`.

Whether an answer is asked for in percent is not known here, so 50% is compared both as 50 and as one half.
"""

import re

_SPACE = r"(?:\\[,;:! ]|~|[ \t]){0,4}"
_MARK = re.compile(
    rf"(?<![\s~])(?<!\\[,;:! ]){_SPACE}"
    rf"(?:\\(?:text|textrm|textnormal|mathrm|rm|mbox|hbox)\s?\{{\s?(?:\\?%|per ?cent|pct)\s?\}}|\\?%)"
    rf"|(?<=[\d}})])[ ~]?(?:(?:per ?cent|pct)(?![A-Za-z])|percentage\Z)"
)
"""The sign or the word for percent. It is searched for only from where white space begins, else in quadratic time."""
_SIGN = r"%(?!\s*[\w(])"
"""Python's remainder, `7 % 3`, has something behind it."""
_SIGNS = re.compile(_SIGN)
_NUMBER = re.compile(rf"(?<![\d.}}])(\d+(?:\.\d+)?|\.\d+){_SIGN}")
_VALUE = re.compile(
    r"(?s:(?P<before>.*(?:[=<>:]|\\(?:leq?|geq?|approx|sim|in)(?![A-Za-z]))|)(?P<sign>\s*[+-]?)(?P<amount>[^=<>]+?))%\Z"
)
"""One percentage, behind a name and a relation or not."""


def plain_percent(text: str) -> str:
    r"""Write each percent sign, and each word for it behind a number, as `%`.

    >>> plain_percent(r"50\,\%"), plain_percent(r"50\text{ percent}"), plain_percent("50 percentage points")
    ('50%', '50%', '50 percentage points')
    """
    return _MARK.sub("%", text)


def is_percent(text: str) -> bool:
    """Return whether a text that `plain_percent` has read holds a percentage."""
    return _SIGNS.search(text) is not None


def without_percent(text: str) -> str:
    """Return such a text with 50 for 50%."""
    return _SIGNS.sub("", text)


def as_fraction(text: str) -> str:
    r"""Return such a text with 50/100 for 50%; unchanged where there is no percentage.

    >>> as_fraction("x=50%"), as_fraction(r"-12\frac12%"), as_fraction("(20%, 30%)")
    ('x=\\frac{50}{100}', '-\\frac{12\\frac12}{100}', '(\\frac{20}{100}, \\frac{30}{100})')
    """
    if text.count("%") == 1 and (whole := _VALUE.fullmatch(text)):
        return rf"{whole['before']}{whole['sign']}\frac{{{whole['amount'].strip()}}}{{100}}"
    return _NUMBER.sub(r"\\frac{\1}{100}", text)
