"""Comparisons of text as published code makes them, defects included, so that numbers can be set beside papers'.

`squad_f1` and `squad_exact_match` are the official script of SQuAD 2.0; `released_f1` is the reward of the released
ARPO code, which is HotpotQA's script. As all three delete punctuation from numbers too, -5 equals 5, 3.14 equals 314
and 1/2 equals 12 for them. `text_match.py` is the default.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_WHOLE = {"yes", "no", "noanswer"}
"""Answers that HotpotQA's script compares as a whole."""


def normalised(text: str) -> str:
    """Return a text as SQuAD compares it: lower-cased, without ASCII punctuation, without articles, evenly spaced.

    >>> normalised("The U.S. -- of  America!")
    'us of america'
    """
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def squad_exact_match(prediction: str, truths: Sequence[str]) -> float:
    """Return 1 if the prediction is one of the accepted answers after SQuAD's normalisation, else 0."""
    return float(any(normalised(prediction) == normalised(truth) for truth in truths))


def squad_f1(prediction: str, truths: Sequence[str]) -> float:
    """Return SQuAD 2.0's token F1, the best of any of the accepted answers."""
    return max((_squad_f1(normalised(prediction), normalised(truth)) for truth in truths), default=0.0)


def released_f1(prediction: str, truths: Sequence[str]) -> float:
    """Return the best token F1 as the released code has it: HotpotQA's, with its rule for yes and no."""
    return max((_released_f1(normalised(prediction), normalised(truth)) for truth in truths), default=0.0)


def _squad_f1(prediction: str, truth: str) -> float:
    if not prediction or not truth:
        return float(prediction == truth)
    return _token_f1(prediction, truth)


def _released_f1(prediction: str, truth: str) -> float:
    if prediction != truth and not _WHOLE.isdisjoint((prediction, truth)):
        return 0.0
    return _token_f1(prediction, truth)


def _token_f1(prediction: str, truth: str) -> float:
    found, expected = prediction.split(), truth.split()
    common = sum((Counter(found) & Counter(expected)).values())
    if common == 0:
        return 0.0
    # In the published order of operations: the result is the same to the last bit.
    precision, recall = common / len(found), common / len(expected)
    return 2 * precision * recall / (precision + recall)
