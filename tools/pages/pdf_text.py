"""PDF to text: words, numbers and addresses that are cut at a line's end are joined.

Runs in the process of `worker_program.py`. What is not covered: text in pictures, and whether `well-` and `known` make
`well-known`, where the document itself does not show it.
"""

import re
from collections import Counter

_MOST_PAGES = 100
# pdfium writes U+0002, or U+FFFE, for a hyphen at a line's end and leaves the line break out.
_HYPHEN = re.compile(r"[\x02\ufffe]|(?<=[^\W\d_])[-\u2010]\r?\n(?=[^\W\d_])")
_RANGE = re.compile(r"(?<=\d)([-\u2013])\r?\n(?=\d)")
_SOFT_HYPHEN = re.compile(r"\xad(?:\r?\n)?")
_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*")
_CUT_ADDRESS = re.compile(r"((?:https?://|www\.)[^\s<>\"]*[-_=&?%/.])\r?\n(\S+)")
_KEEPS_HYPHEN = frozenset(("all", "cross", "ex", "half", "quasi", "self", "well"))
"""First parts of words that are written with a hyphen."""
_REACH = 200
"""Characters looked at before and behind a hyphen."""


def text_of_pdf(data: bytes) -> tuple[str, str]:
    """Return title and text of a PDF's first pages."""
    import pypdfium2

    document = pypdfium2.PdfDocument(data)
    pages = [document[number].get_textpage().get_text_bounded() for number in range(min(len(document), _MOST_PAGES))]
    title = str(document.get_metadata_dict().get("Title") or "")
    return title, re.sub(r"[ \t]{2,}", " ", join_lines("\n\n".join(pages)))


def join_lines(text: str) -> str:
    """Return text without the hyphens and breaks that only a line's end has put there."""
    text = _SOFT_HYPHEN.sub("", text)
    words = Counter(word.casefold() for word in _WORD.findall(text))
    text = _HYPHEN.sub(lambda match: _hyphen(match, words), text)
    return _CUT_ADDRESS.sub(_address, _RANGE.sub(r"\1", text))


def _hyphen(match: "re.Match[str]", words: "Counter[str]") -> str:
    """Return what stands for a hyphen at a line's end: nothing within a word, itself in a compound or an address."""
    before = re.search(r"\S*\Z", match.string[max(0, match.start() - _REACH) : match.start()])
    after = re.match(r"[^\W_]*", match.string[match.end() : match.end() + _REACH])
    token, rest = before.group() if before else "", after.group() if after else ""
    if "://" in token or token.startswith("www.") or "@" in token:
        return "-"
    found = re.search(r"[^\W\d_]+\Z", token)
    first = found.group() if found else ""
    is_compound = "-" in token or first.casefold() in _KEEPS_HYPHEN or not first or not rest[:1].islower()
    if is_compound or not first[-1:].islower():
        # Scripts without case have no capital that would tell, and words are cut in them as in others.
        return "" if first and rest[:1].isalpha() and not _has_case(first + rest[:1]) else "-"
    hyphenated, whole = f"{first}-{rest}".casefold(), f"{first}{rest}".casefold()
    return "-" if words[hyphenated] > words[whole] else ""


def _has_case(text: str) -> bool:
    return text.upper() != text.lower()


def _address(match: "re.Match[str]") -> str:
    """Return an address with what the next line goes on with, unless that begins a new sentence."""
    address, rest = match.groups()
    goes_on = address[-1] not in "/." or bool(re.search(r"[./_=&?%~-]\w|\d", rest))
    return f"{address}{rest}" if goes_on else match.group()
