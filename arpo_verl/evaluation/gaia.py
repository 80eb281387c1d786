"""GAIA's quasi exact match, after the rules of the benchmark's official scorer (arXiv 2311.12983, section 3.2).

The truth decides how an answer is read: as a number, as a list with , or ; between its elements, or as text. Unlike the
official scorer, which turns an answer that is no number into infinity, a truth such as `inf` or `nan` is text here.
"""

import math
import re
import string
from collections.abc import Sequence

_UNITS = str.maketrans("", "", "$%,")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def quasi_exact_match(prediction: str, truths: Sequence[str]) -> float:
    """Return 1.0 if the prediction is an accepted answer up to units, spaces, case and punctuation, else 0.0."""
    return float(any(_matches(prediction, truth) for truth in truths))


def _matches(prediction: str, truth: str) -> bool:
    if _number(truth) is not None:
        return _number(prediction.translate(_UNITS)) == _number(truth)
    if not re.search("[,;]", truth):
        return _text(prediction).translate(_PUNCTUATION) == _text(truth).translate(_PUNCTUATION)
    found, expected = re.split("[,;]", prediction), re.split("[,;]", truth)
    return len(found) == len(expected) and all(map(_matches_element, found, expected))


def _matches_element(prediction: str, truth: str) -> bool:
    """Compare an element of a list: its punctuation counts."""
    if _number(truth) is not None:
        return _number(prediction.translate(_UNITS)) == _number(truth)
    return _text(prediction) == _text(truth)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _text(text: str) -> str:
    return re.sub(r"\s", "", text).lower()
