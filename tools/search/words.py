"""Splits text into the words that local search compares: folded words, and overlapping pairs in scripts without spaces.

Chinese, Japanese, Korean, Thai, Lao, Khmer and Burmese runs become pairs of characters (甄嬛传 -> 甄嬛, 嬛传): a whole
run as one word would match nothing but itself. There is no stemming and no list of stop words.
"""

import re
import unicodedata
from collections.abc import Iterator

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer, their vowel signs included
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"  # kana, Han, Hangul
)
# Signs that Python's \w leaves out and that belong to a word of the Indic scripts; the two dandas are full stops.
_INDIC = "\u0900-\u0963\u0966-\u0dff"
_RUNS = re.compile(f"(?P<unspaced>[{_UNSPACED}]+)|(?:[{_INDIC}]|(?![{_UNSPACED}])[^\\W_])+")
# Accents and the optional points of Hebrew and Arabic: a query is often typed without them.
_DIACRITICS = re.compile("[\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u064b-\u065f\u0670]")


def fold(text: str) -> str:
    """Return text without case, width variants, ligatures, diacritics and lone surrogates."""
    if text.isascii():
        return text.lower()
    text = text.encode("utf-8", "replace").decode()  # NFKD keeps lone surrogates, and SQLite refuses them
    bare = _DIACRITICS.sub("", unicodedata.normalize("NFKD", text))
    return unicodedata.normalize("NFC", bare).casefold()


def words_of_passage(text: str) -> Iterator[str]:
    """Yield the words of a passage in order; single characters of unspaced scripts too, so that one can be found."""
    for run in _RUNS.finditer(fold(text)):
        word = run.group()
        if not run.group("unspaced"):
            yield word
            continue
        yield from word
        yield from _pairs(word)


def words_of_query(text: str, most: int) -> list[str]:
    """Return at most `most` different words of a query, in order; an unspaced character counts only if it is alone."""
    words: dict[str, None] = {}
    for run in _RUNS.finditer(fold(text)):
        word = run.group()
        is_unspaced_run = bool(run.group("unspaced")) and len(word) > 1
        words.update(dict.fromkeys(_pairs(word) if is_unspaced_run else [word]))
        if len(words) >= most:
            break
    return list(words)[:most]


def _pairs(run: str) -> list[str]:
    return [run[start : start + 2] for start in range(len(run) - 1)]
