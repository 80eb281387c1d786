"""The final answer of a response."""

import re

_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
"""A brace, or a backslash with what it escapes: the brace of `\\{1\\}` is a part of a set."""
_COMMAND = r"\\(?:boxed|(?:fbox|framebox|bbox)(?:\[[^\[\]{}\n]{0,100}\])?)(?![A-Za-z])"
_SPACE = r"(?:\s|~|\\[ ,;:!>])"
_BOX = re.compile(rf"{_COMMAND}{_SPACE}*\{{")
_UNBRACED_BOX = re.compile(rf"{_COMMAND}(?!\{{)(?:[ \t]|~|\\[ ,;:!>])*(?:[:=](?!=))?[ \t]*([^\n$]+)")
"""`\\boxed 5`: TeX would box the first character, who writes it means all up to the end of the formula."""
_END_OF_FORMULA = re.compile(r"\s*\\[)\]].*|[\s.]+\Z")


def extract_boxed(text: str) -> str | None:
    r"""Return the content of the last `\boxed{...}` or `\fbox{...}`, or None.

    Space of TeX's may stand before the brace, and options such as `[2pt]` after `\fbox`. Where no box has braces, what
    follows the last `\boxed` is its content.

    >>> extract_boxed(r"so \boxed{\frac{1}{2}}."), extract_boxed(r"so $\boxed 5$")
    ('\\frac{1}{2}', '5')
    """
    start = max((box.end() for box in _BOX.finditer(text)), default=None)
    if start is None:
        return _unbraced(text)
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[start : brace.start()]
    return None


def _unbraced(text: str) -> str | None:
    contents = [_END_OF_FORMULA.sub("", content) for content in _UNBRACED_BOX.findall(text)]
    return next((content for content in reversed(contents) if re.search(r"\w", content)), None)
