r"""Removes the markup around an answer (LaTeX, Markdown, quotation marks) and unifies how Unicode writes a sign.

The reward, for text as for mathematics, and the evaluation's measures, predictions and votes all read an answer through
it.
"""

import re
import unicodedata

_COMMANDS = (
    r"\\(?:text(?:normal|bf|it|rm|sf|tt|sc|up|md)?|math(?:rm|bf|it|sf|tt|normal)|boldsymbol|bm|emph|mbox|hbox|"
    r"underline|operatorname\*?|boxed|fbox|framebox)"
)
COMMAND = re.compile(rf"{_COMMANDS}\s*(?=\{{)")
"""A command that only says how its argument is set."""
_SPACE_COMMAND = r"\\(?:[,;:!> ]|quad(?![A-Za-z])|qquad(?![A-Za-z])|displaystyle(?![A-Za-z])|textstyle(?![A-Za-z]))"
_FONT = r"\\(?:rm|bf|it|sf|tt|sc|em)(?![A-Za-z])"
"""A command that sets all that follows in its group."""
_LEADING = re.compile(rf"(?:\s|{_SPACE_COMMAND}|{_FONT}|~)+|(?:=|≈|\\approx(?![A-Za-z]))\s*(?=[^=\s])")
_TRAILING = re.compile(rf"(?:\s|(?<!\\){_SPACE_COMMAND}|(?<!\\)~)+\Z|(?<!\\)\\\\\s*\Z")
_SAYS_SO = re.compile(
    r"(?:so |thus |therefore,? |hence,? )?(?:the |my )?(?:final |correct |right )?(?:answer|result)(?: is)?\s*[:=]\s*|"
    r"(?:so |thus |therefore,? |hence,? )?(?:the |my )?(?:final |correct |right )?answer is\s+(?=\S)",
    re.IGNORECASE,
)
_MARKS = ("$$", "$", "***", "**", "__", "~~", "```", "`", "*", "_", '"', "'")
"""Marks that may surround an answer."""
_PAIRS = {
    r"\(": r"\)",
    r"\[": r"\]",
    "\N{LEFT DOUBLE QUOTATION MARK}": "\N{RIGHT DOUBLE QUOTATION MARK}",
    "\N{DOUBLE LOW-9 QUOTATION MARK}": "\N{LEFT DOUBLE QUOTATION MARK}",
    "\N{LEFT SINGLE QUOTATION MARK}": "\N{RIGHT SINGLE QUOTATION MARK}",
    "\N{LEFT-POINTING DOUBLE ANGLE QUOTATION MARK}": "\N{RIGHT-POINTING DOUBLE ANGLE QUOTATION MARK}",
    "\N{LEFT CORNER BRACKET}": "\N{RIGHT CORNER BRACKET}",
    "\N{LEFT WHITE CORNER BRACKET}": "\N{RIGHT WHITE CORNER BRACKET}",
    "``": "''",
    "<b>": "</b>",
    "<i>": "</i>",
    "<u>": "</u>",
    "<em>": "</em>",
    "<strong>": "</strong>",
}
_MOST_LAYERS = 8
_DASHES = "\u2010\u2011\u2012\u2013\u2212\ufe58\ufe63\uff0d"
_FOLDED_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys(_DASHES, "-"),
        **dict.fromkeys("\u2014\u2015", " - "),
        **dict.fromkeys("\u2018\u2019\u02bc\u2032\u00b4", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u2033", '"'),
        "\u2044": "/",
        "\u00b7": "·",
        "\u2116": "No. ",
    }
)
_FOLDED_KINDS = ("<wide>", "<narrow>", "<compat>", "<font>", "<sub>", "<small>", "<noBreak>")
_THIN_SPACE = "[\u00a0\u2007\u2009\u202f]"
_THIN_THOUSANDS = re.compile(rf"(?<![\d.,])\d{{1,3}}(?:{_THIN_SPACE}\d{{3}})+(?!\d)")


def fold(text: str) -> str:
    r"""Return a text with one way to write each sign: composed, of normal width, ASCII dashes and quotation marks.

    Unlike NFKC it keeps what a superscript says, and unlike NFKD all marks of a script.

    >>> fold("−５ ℃"), fold("10⁵"), fold("1½"), fold("दिन") == fold("दान")
    ('-5 °C', '10^5', '1 1/2', False)
    """
    if text.isascii():
        return text
    text = unicodedata.normalize("NFC", text)
    text = _THIN_THOUSANDS.sub(lambda number: re.sub(_THIN_SPACE, "", number[0]), text)
    text = text.translate(_FOLDED_CHARACTERS)
    pieces: list[str] = []
    is_raised = False
    for character in text:
        kind, _, _ = unicodedata.decomposition(character).partition(" ")
        piece = character
        if kind == "<super>":
            piece = unicodedata.normalize("NFKC", character).translate(_FOLDED_CHARACTERS)
            if not is_raised and pieces and piece[0] in "0123456789-+":
                piece = "^" + piece
        elif kind == "<fraction>":
            space = " " if pieces and pieces[-1][-1:].isdigit() else ""
            piece = space + unicodedata.normalize("NFKC", character).translate(_FOLDED_CHARACTERS)
        elif kind in _FOLDED_KINDS:
            piece = unicodedata.normalize("NFKC", character).translate(_FOLDED_CHARACTERS)
        elif unicodedata.category(character) == "Cf":
            continue  # invisible: zero-width spaces, soft hyphens, direction marks
        is_raised = kind == "<super>"
        pieces.append(piece)
    return unicodedata.normalize("NFC", "".join(pieces))


def unwrap(text: str, trailing: str = ".,;:") -> str:
    r"""Return an answer without what surrounds it as a whole.

    Args:
        text: an answer that `fold` has read.
        trailing: the punctuation that may follow an answer; an exclamation mark is a factorial in mathematics.

    >>> unwrap(r"\text{Paris}."), unwrap("**$42$**"), unwrap("The answer is: '1984'."), unwrap(r"\$5")
    ('Paris', '42', '1984', '\\$5')
    """
    for _ in range(_MOST_LAYERS):
        inner = _without_layer(text, trailing)
        if inner == text:
            break
        text = inner
    return text


def group_end(text: str, start: int) -> int:
    """Return the index of the brace that closes the one at `start`, -1 if none does; escaped braces are no braces."""
    depth = 0
    position = start
    while position < len(text):
        character = text[position]
        if character == "\\":
            position += 1
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return position
        position += 1
    return -1


def _without_layer(text: str, trailing: str) -> str:
    text = _TRAILING.sub("", text)
    if leading := _LEADING.match(text):
        text = text[leading.end() :]
    if said := _SAYS_SO.match(text):
        text = text[said.end() :]
    bare = text if text.endswith(r"\right.") else text.rstrip(trailing + "\u3002\uff0c\u3001\uff1b\uff1a")
    text = bare if bare and not bare.endswith("\\") else text
    command = COMMAND.match(text)
    start = command.end() if command else 0
    if text[start : start + 1] == "{" and group_end(text, start) == len(text) - 1:
        content = text[start + 1 : -1]
        if command or not set(",;:") & set(content):  # what Python prints of a set is one
            return content
    return _without_marks(text)


def _without_marks(text: str) -> str:
    for mark in _MARKS:
        content = text[len(mark) : -len(mark)]
        is_around = text.startswith(mark) and text.endswith(mark) and len(text) > 2 * len(mark)
        if is_around and mark not in content and not content.endswith("\\"):
            return content
    for opening, closing in _PAIRS.items():
        content = text[len(opening) : -len(closing)]
        if text.startswith(opening) and text.endswith(closing) and not {opening, closing} & {content[:2], content[-2:]}:
            return content if opening not in content else text
    return text
