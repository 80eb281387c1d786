"""The final answer of a response, and the accepted answers of a row."""

import ast
import json
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
"""A brace, or a backslash with what it escapes: the brace of `\\{1\\}` is a part of a set."""
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{")
_UNBRACED_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![A-Za-z{])[ \t]*([^\n$]+)")
"""`\\boxed 5`: TeX would box the first character, who writes it means all up to the end of the formula."""
_END_OF_FORMULA = re.compile(r"\s*\\[)\]].*|[\s.]+\Z")


def extract_boxed(text: str) -> str | None:
    r"""Return the content of the last `\boxed{...}` or `\fbox{...}`, or None.

    White space may stand before the brace. Where no box has braces, what follows the last `\boxed` is its content.

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


def accepted_answers(ground_truth: Any) -> list[str]:
    """Return the accepted answers of a row as texts.

    Args:
        ground_truth: a text, a number, a sequence or NumPy array of them, a mapping with these as `target` (Search-R1's
            rows), or a list of texts that was written as text (`'["34"]'`).

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(ground_truth, dict) and "target" in ground_truth:
        ground_truth = ground_truth["target"]
    answers = _listed(ground_truth)
    if not all(isinstance(answer, (str, int, float, Decimal)) for answer in answers):
        raise ValueError(
            f"ground truth {ground_truth!r}; expected a text, a number or a list of them: "
            f"correct reward_model.ground_truth in the dataset"
        )
    return [str(answer) for answer in answers]


def _listed(ground_truth: Any) -> Sequence[Any]:
    if isinstance(ground_truth, str):
        return _list_in_text(ground_truth) or [ground_truth]
    if isinstance(ground_truth, (list, tuple)):
        return [_plain(answer) for answer in ground_truth]
    if getattr(ground_truth, "ndim", 0):  # a NumPy array
        return [_plain(answer) for answer in ground_truth]
    return [_plain(ground_truth)]


def _plain(answer: Any) -> Any:
    """Return a NumPy scalar as Python's: a float32 by its own shortest digits, 0.1 and not 0.10000000149."""
    if not hasattr(answer, "tolist"):
        return answer
    value = answer.tolist()
    is_from_numpy = type(answer).__module__ == "numpy"
    return str(answer) if isinstance(value, float) and is_from_numpy else value


def _list_in_text(text: str) -> list[str] | None:
    """Return the texts of a list that JSON or Python wrote; None for anything else, such as the interval `[1, 2]`."""
    text = text.strip()
    if not (text.startswith(("[", "(")) and text.endswith(("]", ")")) and any(quote in text for quote in "\"'")):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            continue
        if isinstance(value, (list, tuple)) and value and all(isinstance(one, str) for one in value):
            return list(value)
    return None
