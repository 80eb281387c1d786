"""Extract the final answer of a response and compare it with the ground truth."""

import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

_ARTICLES = {"a", "an", "the"}
_NUMBER = re.compile(r"[+-]?((\d{1,3}(,\d{3})+|\d+)(\.\d*)?|\.\d+)(/[1-9]\d*)?")
_LONGEST_NUMBER = 200
"""Characters; converting a longer one costs time, and is refused by Python from some length on."""
_WORD = re.compile(r"(?<!\w)-?\$?\d+(?:[.,/]\d+)*|\w+")
"""A word without its punctuation, or a number with the signs that are part of it."""


def extract_boxed(text: str) -> str | None:
    r"""Return the content of the last `\boxed{...}` with balanced braces, or None.

    >>> extract_boxed(r"so \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    """
    start = text.rfind(r"\boxed{")
    if start < 0:
        return None
    start += len(r"\boxed{")
    depth = 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start:position]
    return None


def accuracy(prediction: str, truths: Sequence[str]) -> float:
    """Return the best agreement with any of the accepted answers, from 0 to 1.

    Numbers agree if they are equal, and not at all otherwise; text agrees by token F1 after lower-casing and removing
    articles and the punctuation around words (SQuAD's metric, but for numbers, which keep their signs, and for
    punctuation inside words, which separates them). The released code compares numbers as text without punctuation,
    for which -5 equals 5 and 3.14 equals 314.
    """
    return max((_agreement(prediction, truth) for truth in truths), default=0.0)


def _agreement(prediction: str, truth: str) -> float:
    expected = _number(truth)
    if expected is not None:
        return float(_number(prediction) == expected)
    return _token_f1(_words(prediction), _words(truth))


def _number(text: str) -> Fraction | None:
    text = text.strip()
    if len(text) > _LONGEST_NUMBER or not _NUMBER.fullmatch(text):
        return None
    numerator, _, denominator = text.replace(",", "").partition("/")
    return Fraction(numerator) / Fraction(denominator or 1)


def _words(text: str) -> list[str]:
    words: list[str] = _WORD.findall(text.lower())
    # An answer that is an article, such as the choice A, stays.
    return [word for word in words if word not in _ARTICLES] or words


def _token_f1(prediction: list[str], truth: list[str]) -> float:
    if not prediction or not truth:
        return float(prediction == truth)
    common = sum((Counter(prediction) & Counter(truth)).values())
    return 2 * common / (len(prediction) + len(truth))
