r"""Answers in LaTeX, Markdown or HTML as plain text: `\text{Paris}`, `\frac{1}{2}` as 1/2, `**42**`, `5^\circ`."""

import html
import re

from arpo_verl.reward.unwrap import COMMAND, fold, group_end, unwrap

_END_PUNCTUATION = ".,;:!?"
_FRACTION = re.compile(r"(\d)?\s*\\[dtc]?frac\s*(?:\{\s*(-?\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))")
_POWER_OF_TEN = re.compile(r"(\d)\s*(?:×|\*|x|·|\\times|\\cdot)\s*10\s*\^\s*(?:\{\s*)?(-?\d{1,3})(?:\s*\})?")
_TEN_TO_THE = re.compile(r"(?<![\w.,])10\s*\^\s*(?:\{\s*)?(-?\d{1,3})(?:\s*\})?(?!\w)")
_SIGNS = {
    r"\%": "%", r"\$": "$", r"\#": "#", r"\&": "&", r"\_": "_", "{,}": ",", r"\,": "\u2009",
    r"^{\circ}": "°", r"^\circ": "°", r"^{\degree}": "°", r"^\degree": "°", r"\degree": "°",
    r"\times": "×", r"\cdot": "·", r"\leq": "≤", r"\geq": "≥", r"\neq": "≠", r"\le": "≤", r"\ge": "≥", r"\ne": "≠",
    r"\pm": "±", r"\approx": "≈", r"\infty": "∞", r"\left": "", r"\right": "", r"\(": "", r"\)": "",
    r"\;": " ", r"\:": " ", r"\!": "", r"\ ": " ", r"\quad": " ", r"\qquad": " ", "~": " ",
}  # fmt: skip
_SIGN = re.compile("|".join(re.escape(sign) + ("(?![a-zA-Z])" if sign[-1].isalpha() else "") for sign in _SIGNS))
_MARKDOWN = re.compile(r"\*\*|__|```|`|(?<!\w)[*_](?=\S)|(?<=\S)[*_](?!\w)")
_LINK = re.compile(r"\[([^\[\]()]{1,300})\]\([^()\s]{1,500}\)")
_HTML = re.compile(r"</?(?:b|i|u|em|strong|sup|sub|span|p|br|code)\s*/?>", re.IGNORECASE)
_FORMULA = re.compile(r"(?<![\\$\w])\$(?=[^\s$])([^$]{0,300}?)(?<=[^\s\\])\$(?![\d$])")
_ENCLOSED = re.compile(r"\(([^()]*)\)|\[([^\[\],]*)\]")
_SIGN_APART = re.compile(r"\A([-+])\s+(?=[\d.$€£¥])")
_MINUS = re.compile(r"\A(?:minus|negative)\s+(?=[\d.$€£¥])", re.IGNORECASE)
_APOSTROPHES = re.compile(r"(?<![\d.,'])\d{1,3}(?:'\d{3})+(?![\d'])")
"""Thousands as Switzerland writes them."""
_CURRENCY_CODES = {"USD": "$", "US$": "$", "EUR": "€", "GBP": "£", "JPY": "¥", "INR": "₹"}
_CURRENCY_CODE = re.compile(rf"(?<![\w$])({'|'.join(map(re.escape, _CURRENCY_CODES))})[ \u00a0]?(?=[\d.])")
_DIMENSION = re.compile(r"(?<![\w.,-])(\d)-(?=D\b)")
"""`3-D`"""
_PERCENT = re.compile(r"(?<=\d)\s*per ?cent\b", re.IGNORECASE)


def plain_text(text: str) -> str:
    r"""Return an answer as plain text, without what surrounds it.

    >>> plain_text(r"$\text{1,987}$"), plain_text(r"(42)!"), plain_text(r"-5^\circ\text{C}"), plain_text(r"1\frac12")
    ('1,987', '42', '-5°C', '1 1/2')
    """
    text = fold(text)
    if "\\" in text or "$" in text or "{" in text:
        text = without_latex(unwrap(text, _END_PUNCTUATION))
    if "&" in text:
        text = re.sub(r"\s*&\s*", " and ", html.unescape(text))
    text = _LINK.sub(r"\1", _HTML.sub("", text))
    text = _TEN_TO_THE.sub(r"1e\1", _POWER_OF_TEN.sub(r"\1e\2", text))
    text = unwrap(_MARKDOWN.sub("", unwrap(text, _END_PUNCTUATION)), _END_PUNCTUATION)
    if enclosed := _ENCLOSED.fullmatch(text):
        text = unwrap((enclosed[1] or enclosed[2] or ""), _END_PUNCTUATION) or text
    text = _DIMENSION.sub(r"\1", _CURRENCY_CODE.sub(lambda code: _CURRENCY_CODES[code[1]], text))
    text = _APOSTROPHES.sub(lambda thousands: thousands[0].replace("'", ""), _MINUS.sub("-", text))
    return _PERCENT.sub("%", _SIGN_APART.sub(r"\1", text))


def without_latex(text: str) -> str:
    """Return a text without LaTeX's commands: their arguments and the signs they stand for."""
    text = _SIGN.sub(lambda sign: _SIGNS[sign[0]], _FRACTION.sub(_fraction, _FORMULA.sub(r"\1", text)))
    while command := COMMAND.search(text):
        end = group_end(text, command.end())
        if end < 0:
            break
        text = text[: command.start()] + text[command.end() + 1 : end] + text[end + 1 :]
    return fold(text)


def _fraction(match: re.Match[str]) -> str:
    whole, *parts = match.groups()
    numerator, denominator = (part for part in parts if part is not None)
    return f"{whole or ''}{' ' * bool(whole)}{numerator}/{denominator}"
