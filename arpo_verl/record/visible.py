"""Texts of a rollout where they are shown: what shows nothing, or is obeyed, is written out."""

import re

from arpo_verl.record.content import RecordedPrompt, plain_text

_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)

QUESTION_CHARACTERS = 300


def visible(text: str) -> str:
    """Return a text with the characters written out that show nothing, or that a terminal obeys."""
    return _HIDDEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text)


def one_line(text: str, width: int) -> str:
    """Return a text on one line of at most `width` characters."""
    line = " ".join(visible(text).split())
    return line if len(line) <= width else line[: max(0, width - 1)] + "…"


def beginning_and_end(text: str, width: int) -> str:
    """Return a text on one line of at most `width` characters, of which a long one lacks the middle."""
    if len(text) > 8 * width:  # what is looked at character by character stays short
        text = f"{text[: 4 * width]} … {text[-4 * width :]}"
    line = " ".join(visible(text).split())
    if len(line) <= width:
        return line
    head = (width - 3) // 2
    return f"{line[:head]} … {line[len(line) - (width - 3 - head) :]}"


def question_of(prompt: RecordedPrompt) -> str:
    """Return the end of a prompt's text, where its question is, on one line and without special tokens."""
    return " ".join(plain_text(prompt, " ").split())[-QUESTION_CHARACTERS:]
