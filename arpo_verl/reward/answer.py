"""Extract the final answer of a response and compare it with the accepted answers as text.

Mathematics beyond plain numbers is compared in `math_check.py`.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

_ARTICLES = {"a", "an", "the"}
_NUMBER = re.compile(r"[+-]?((\d{1,3}(,\d{3})+|\d+)(\.\d*)?|\.\d+)(/[1-9]\d*)?")
LONGEST_NUMBER = 200
"""Characters; converting a longer one costs time, and is refused by Python from some length on."""
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
"""A brace, or a backslash with what it escapes: the brace of `\\{1\\}` is a part of a set."""
# Ideographs and kana, which are written without spaces between words.
_CJK = "\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff"
_CJK += "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_WORD = re.compile(rf"(?<![^\W{_CJK}])-?\$?\d+(?:[.,/]\d+)*|[{_CJK}]|[^\W{_CJK}]+")
"""A number with the signs that are part of it, one CJK character, or a word without its punctuation."""
_RELEASED_PUNCTUATION = str.maketrans("", "", string.punctuation)
_RELEASED_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_RELEASED_WHOLE = {"yes", "no", "noanswer"}
"""Answers that the released code compares as a whole."""


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
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[start : brace.start()]
    return None


def number(text: str) -> Fraction | None:
    """Return the value of a plain number (sign, thousands separators, decimals, a/b), or None.

    >>> number("-1,000.5"), number("1/3"), number("5 m")
    (Fraction(-2001, 2), Fraction(1, 3), None)
    """
    text = text.strip().replace("\N{MINUS SIGN}", "-")
    if len(text) > LONGEST_NUMBER or not _NUMBER.fullmatch(text):
        return None
    numerator, _, denominator = text.replace(",", "").partition("/")
    return Fraction(numerator) / Fraction(denominator or 1)


def exact_match(prediction: str, truths: Sequence[str]) -> float:
    """Return 1 if the prediction says the same as an accepted answer, else 0.

    Numbers are the same if their values are; text is the same if its words are, in their order, as `token_f1` has
    them.
    """
    return float(any(_is_same(prediction, truth) for truth in truths))


def token_f1(prediction: str, truths: Sequence[str]) -> float:
    """Return the best agreement with any of the accepted answers, from 0 to 1.

    Numbers agree if they are equal, and not at all otherwise; text agrees by token F1 after lower-casing and removing
    articles and the punctuation around words (SQuAD's metric, but for numbers, which keep their signs, and for
    punctuation inside words, which separates them). Each Chinese or Japanese character is a token.
    """
    return max((_agreement(prediction, truth) for truth in truths), default=0.0)


def released_f1(prediction: str, truths: Sequence[str]) -> float:
    """Return the best token F1 as the released code has it, its defect included.

    SQuAD's metric, with HotpotQA's rule for yes and no: lower-cased, ASCII punctuation deleted, articles removed. As
    punctuation is deleted from numbers too, -5 equals 5, 3.14 equals 314 and 1/2 equals 12.
    """
    return max((_released_agreement(prediction, truth) for truth in truths), default=0.0)


def _is_same(prediction: str, truth: str) -> bool:
    expected = number(truth)
    if expected is not None:
        return number(prediction) == expected
    return _tokens(prediction, truth) == _tokens(truth, truth)


def _agreement(prediction: str, truth: str) -> float:
    expected = number(truth)
    if expected is not None:
        return float(number(prediction) == expected)
    return _f1(_tokens(prediction, truth), _tokens(truth, truth))


def _tokens(text: str, truth: str) -> list[str]:
    """Return the words of a text; all of it as one where the accepted answer has none, such as `>`."""
    return _words(text) if _words(truth) else ["".join(text.split())]


def _words(text: str) -> list[str]:
    words: list[str] = _WORD.findall(text.lower())
    # An answer that is an article, such as the choice A, stays.
    return [word for word in words if word not in _ARTICLES] or words


def _released_agreement(prediction: str, truth: str) -> float:
    texts = [
        " ".join(_RELEASED_ARTICLE.sub(" ", text.lower().translate(_RELEASED_PUNCTUATION)).split())
        for text in (prediction, truth)
    ]
    if texts[0] != texts[1] and not _RELEASED_WHOLE.isdisjoint(texts):
        return 0.0
    if not all(texts):  # its F1 of two answers without words is 0
        return 0.0
    return _f1(texts[0].split(), texts[1].split())


def _f1(prediction: list[str], truth: list[str]) -> float:
    if not prediction or not truth:
        return float(prediction == truth)
    common = sum((Counter(prediction) & Counter(truth)).values())
    return 2 * common / (len(prediction) + len(truth))
