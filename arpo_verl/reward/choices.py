"""Answers of multiple choice: a letter, or a letter with the text of its choice."""

import re

_LETTER = re.compile(r"\(?(?P<letter>[A-J])\)?\.?|\((?P<small>[a-j])\)")
_LETTER_AND_TEXT = re.compile(
    r"(?:(?:choice|option|answer)\s+)?(?:\(\s*(?P<enclosed>[A-Ja-j])\s*\)|(?P<letter>[A-J])\s*[:).])\s*(?P<text>\S.*)?"
    r"|(?:choice|option|answer)\s+(?P<named>[A-Ja-j])\.?",
    re.DOTALL | re.IGNORECASE,
)


def is_same_choice(one: str, other: str) -> bool:
    """Return whether one answer is the letter of a choice, and the other that letter, with or without its text.

    >>> is_same_choice("E: some text", "E"), is_same_choice("(b)", "B"), is_same_choice("E: this", "E: that")
    (True, True, False)
    """
    return _names_letter(one, other) or _names_letter(other, one)


def _names_letter(one: str, other: str) -> bool:
    bare = _LETTER.fullmatch(one)
    if not bare:
        return False
    letter = (bare["letter"] or bare["small"]).upper()
    named = _LETTER.fullmatch(other) or _LETTER_AND_TEXT.fullmatch(other)
    return bool(named) and letter in {found.upper() for found in _letters(named) if found}


def _letters(match: "re.Match[str] | None") -> list[str | None]:
    return [] if match is None else [value for name, value in match.groupdict().items() if name != "text"]
