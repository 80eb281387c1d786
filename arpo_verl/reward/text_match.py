"""The comparison of answers as text, by which training and evaluation measure what is not mathematics.

Numbers are compared by value, units and currencies by name, dates as dates, words without case, articles and the
punctuation around them; signs, marks of a script and operators count. What is equal to what, with counts of what it
gets wrong: docs/answers.md. `published.py` has the published comparisons.
"""

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction

from arpo_verl.reward.choices import is_same_choice
from arpo_verl.reward.dates import date_of
from arpo_verl.reward.plain_text import plain_text
from arpo_verl.reward.quantity import CURRENCIES, MAGNITUDES, UNITS, number

LONGEST_TEXT = 10_000
"""The number of characters that are compared."""
_ARTICLES = {"a", "an", "the"}
# Ideographs and kana, which are written without spaces between words.
_CJK = "\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff"
_CJK += "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_LETTER = rf"[^\W_{_CJK}]"
_TOKEN = re.compile(
    rf"(?P<number>(?<!{_LETTER})[+-]?(?: ?(?P<currency>[{re.escape(''.join(CURRENCIES))}]) ?)?[+-]?"
    rf"(?:\d+ +\d+/[1-9]\d*|\d{{1,3}}(?: \d{{3}})+(?:\.\d+)?|\.?\d+(?:[.,/]\d+)*(?:[eE][+-]?\d{{1,3}})?)"
    rf"(?![.,/]?{_LETTER}))"
    rf"|(?P<character>[{_CJK}])"
    rf"|(?P<word>{_LETTER}+(?:(?:[.'/:_@·]|-(?!\s)){_LETTER}+)*(?:\+\+|[+#](?!{_LETTER})|(?<=\b[A-Z])-(?=\s|\Z)"
    rf"|(?<=\b[A-Z][A-Z])-(?=\s|\Z))?)"
    rf"|(?P<operator>[=<>+*^≤≥≠×÷±√∞%°€£$¥])"
)
"""A number with its sign, a CJK character, a word with the punctuation inside it, or a sign that means something."""
_INNER = re.compile(r"[-.'/:_@·]")
_INITIALS = re.compile(r"(?<![^\W\d_])[^\W\d_](?:\. ?[^\W\d_](?![^\W\d_]))+\.?")
_BARE_INITIALS = re.compile(r"(?<![\w.])[B-HJ-Z](?: [A-Z])+(?![\w.'])")
_CLOCK = re.compile(r"(?<=\d)(?=[ap]\.?m\b)", re.IGNORECASE)
"""The place between a time and the a.m. or p.m. that follows it without a space."""
_UNIT = re.compile(
    rf"(?<=\d) ?(?:{'|'.join(map(re.escape, sorted(UNITS, key=len, reverse=True)))})(?![^\W_]|\^)"
    rf"|(?<=\d) ?(?:{'|'.join(MAGNITUDES)})\b",
    re.IGNORECASE,
)


def exact_match(prediction: str, truths: Sequence[str]) -> float:
    """Return 1 if the prediction says the same as an accepted answer, else 0: the same tokens in the same order."""
    return float(any(_is_same(prediction, truth) for truth in truths))


def token_f1(prediction: str, truths: Sequence[str]) -> float:
    """Return the best agreement with any of the accepted answers, from 0 to 1.

    Numbers agree if they are equal, and not at all otherwise; text agrees by the F1 of its tokens. Each Chinese or
    Japanese character is a token.
    """
    return max((_agreement(prediction, truth) for truth in truths), default=0.0)


def _is_same(prediction: str, truth: str) -> bool:
    found, expected = _parsed_answer(prediction), _parsed_answer(truth)
    if expected.amount is not None:
        return expected.accepts(found)
    if is_same_choice(found.text, expected.text) or (expected.date is not None and found.date == expected.date):
        return True
    return any(one == other for one, other in zip(found.tokens, expected.tokens, strict=True))


def _agreement(prediction: str, truth: str) -> float:
    if _is_same(prediction, truth):
        return 1.0
    found, expected = _parsed_answer(prediction), _parsed_answer(truth)
    if expected.amount is not None:
        return 0.0
    return max(_f1(one, other) for one, other in zip(found.tokens, expected.tokens, strict=True))


class _ParsedAnswer:
    """An answer in the form in which it is compared."""

    def __init__(self, text: str) -> None:
        self.text = plain_text(text[:LONGEST_TEXT])
        compounds = _compounds(self.text)
        self.tokens = [_tokens(compounds, joins) for joins in (_joins_nothing, _joins_digits, _joins_all)]
        """Three lists of tokens, by how compounds with hyphens, apostrophes and the like are split: always, not where
        they have a digit (F-16 is F16), and never."""
        self.date = date_of(self.text)
        self.amount = _amount(compounds)
        """The value and the currency, or `percent`, of an answer that is nothing but a number."""

    def accepts(self, other: "_ParsedAnswer") -> bool:
        """Return whether another answer is this number; a currency or a percent sign may be missing in it."""
        if self.amount is None or other.amount is None or self.amount[0] != other.amount[0]:
            return False
        mine, theirs = self.amount[1], other.amount[1]
        return mine == theirs or theirs is None or (mine is None and theirs != "percent")


@functools.lru_cache(maxsize=4096)
def _parsed_answer(text: str) -> _ParsedAnswer:
    return _ParsedAnswer(text)


class _Whole(str):
    """A token that is not taken apart: figures that are no number, such as 5.0.4, and a unit."""


Compound = Fraction | str
"""A number, or a word in small letters with the punctuation inside it."""


def _compounds(text: str) -> list[Compound]:
    text = _CLOCK.sub(" ", text)
    text = _INITIALS.sub(lambda initials: re.sub(r"[. ]", "", initials[0]) + " ", text)
    text = _BARE_INITIALS.sub(lambda initials: initials[0].replace(" ", ""), text)
    text = _UNIT.sub(lambda unit: f" {_unit_name(unit[0].strip())}", text)
    # Marks are no letters for `re`, and part of the word all the same.
    shadow = text if text.isascii() else "".join("x" if _is_mark(character) else character for character in text)
    compounds: list[Compound] = []
    for match in _TOKEN.finditer(shadow):
        token = text[match.start() : match.end()]
        if match["number"]:
            compounds.extend(_number_and_currency(token, match["currency"]))
        else:
            # The capital of the Turkish i has its dot as a mark of its own when it is folded.
            _append_word(compounds, token.casefold().replace("i\u0307", "i"))
    return compounds


def _unit_name(unit: str) -> str:
    return UNITS.get(unit.lower(), unit).replace(" ", "_")


def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "M"


def _number_and_currency(token: str, currency: str | None) -> list[Compound]:
    plain = "".join(part.strip() for part in token.split(currency)) if currency else token
    value = number(plain)
    if value == 1 and "/" in plain:  # a share of 50/50, a rating of 5/5
        value = None
    found: list[Compound] = [_Whole(plain) if value is None else value]
    return [*found, CURRENCIES[currency]] if currency else found


def _append_word(compounds: list[Compound], word: str) -> None:
    """Append a word, or multiply the number before it by what the word says."""
    amount = -2 if compounds and compounds[-1] in CURRENCIES.values() else -1
    number_before = compounds[amount] if len(compounds) >= -amount else None
    if isinstance(number_before, Fraction) and word in MAGNITUDES:
        compounds[amount] = number_before * 10 ** MAGNITUDES[word]
    elif isinstance(number_before, Fraction) and amount == -1 and word.replace("_", " ") in UNITS:
        compounds.append(_Whole(UNITS[word.replace("_", " ")]))
    else:
        compounds.append({"%": "percent", **CURRENCIES}.get(word, word))


def _joins_nothing(compound: str) -> bool:
    return False


def _joins_digits(compound: str) -> bool:
    return any(character.isdigit() for character in compound)


def _joins_all(compound: str) -> bool:
    return True


def _tokens(compounds: Sequence[Compound], joins: Callable[[str], bool]) -> list[str]:
    tokens: list[str] = []
    for compound in compounds:
        if isinstance(compound, Fraction):
            tokens.append(str(compound))
        elif isinstance(compound, _Whole) or not _INNER.search(compound.rstrip("-")):  # the grade A- keeps its sign
            tokens.append(compound)
        elif joins(compound):
            tokens.append(_INNER.sub("", compound))
        else:
            tokens.extend(filter(None, _INNER.split(compound)))
    # An answer that is an article, such as the choice A, stays.
    return [token for token in tokens if token not in _ARTICLES] or tokens


def _amount(compounds: Sequence[Compound]) -> tuple[Fraction, str | None] | None:
    if not compounds or not isinstance(compounds[0], Fraction) or len(compounds) > 2:
        return None
    unit = compounds[1] if len(compounds) == 2 else None
    if unit is None or unit == "percent" or unit in CURRENCIES.values():
        return compounds[0], None if unit is None else str(unit)
    return None


def _f1(prediction: list[str], truth: list[str]) -> float:
    if not prediction or not truth:
        return float(prediction == truth)
    common = sum((Counter(prediction) & Counter(truth)).values())
    return 2 * common / (len(prediction) + len(truth))
