"""The passage, which every search and every cache entry is made of, and when two queries are the same."""

import re
import unicodedata
from dataclasses import dataclass

_OPERATOR = re.compile(r"\(?(?:OR|AND|NOT|NEAR|AROUND\(\d+\))\)?")
"""The words that search engines take for operators where they are written in capitals."""
_NOT_TEXT = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")


@dataclass(frozen=True)
class Passage:
    """One result. `snippet` is what the model reads; the rest is there when the back-end has it."""

    snippet: str
    title: str = ""
    url: str = ""
    text: str | None = None
    """The whole document, where the back-end returns it."""
    score: float | None = None
    """In the back-end's own unit; comparable within one answer only."""
    is_document: bool = False
    """The snippet is a document of a corpus, which can't be understood without its title. A web engine's snippet is
    shown by itself, as in the released code."""


def clean_query(text: str, most_chars: int) -> str:
    """Return the query as one line without control characters and lone surrogates, of at most `most_chars`."""
    text = text[: 8 * most_chars].encode("utf-8", "replace").decode()
    return _NOT_TEXT.sub(" ", text).strip()[:most_chars].strip()


def normalise_query(text: str) -> str:
    """Return what two queries share when they are the same for a search engine: case, spaces and width variants go.

    Everything else stays: 10⁵ is not 105, ½ not 12, ① not 1, ﬁ not fi, ß not ss; a full-width quote is no operator, and
    OR between other words is one.
    """
    text = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode())
    if not text.isascii():
        text = unicodedata.normalize("NFC", "".join(map(_common_width, text)))
    return " ".join(word if _OPERATOR.fullmatch(word) else word.lower() for word in text.split())


def _common_width(letter: str) -> str:
    """Return the usual form of a full-width or half-width letter or digit."""
    kind, _, code = unicodedata.decomposition(letter).partition(" ")
    is_letter = unicodedata.category(letter)[0] in "LNM"
    return chr(int(code, 16)) if kind in ("<wide>", "<narrow>") and is_letter else letter
