"""Parses the verdict in a judge's reply, which may be a line, JSON, a Python object, a table or tags.

The last verdict decides. A reply with no verdict, or with one that says neither or both, is invalid.
"""

import ast
import json
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any


class Verdict(str, Enum):
    """The verdict of a judge."""

    CORRECT = "correct"
    WRONG = "wrong"
    INVALID = "invalid"
    """The reply says neither, or both. It is counted apart from wrong."""


_NAMES = "correct|is_?correct|verdict|judge?ment|grade"
_LINE = re.compile(
    r"""^(?:[ \t]*\d+[.)])?[ \t>*_\#\-"'`{|<(\[]*      # a numbered line, quotation, list, emphasis, heading, table, tag
    (?:correct|is[ ](?:it|(?:the|this)[ ]\w{1,20})[ ]correct(?=[ ]?\?)
    |(?:(?:the|my)[ ])?(?:final[ ])?(?:verdict|judge?ment)(?:[ ]is)?)
    (?:[ ]?\([ ]?yes[ ]?(?:/|or)[ ]?no[ ]?\))?
    [ \t*_"'`)\]]* (?:[:\uFF1A=?|>\uFF1F]|->|=>|\u2192|-[ \t]|\u2013|\u2014)+ [ \t*_"'`<>\[({|:=]*
    (?:\n[ \t*_"'`<\[({|>-]*)?                         # the value may stand on the next line
    (?P<value>[^\n]*)""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
_YES = "yes|true|correct|right|y|1"
_NO = "no|false|incorrect|wrong|n|0"
_VALUE = re.compile(
    rf"""(?P<word>{_YES}|{_NO}) (?![\w]|[.,]\d|\s*%|['\u2019]\w)
    (?! [^\w\n]{{0,9}} (?:[/|]|\b(?:or|and)\b) [^\w\n]{{0,9}} (?:{_YES}|{_NO})\b )   # "yes or no" is both
    (?! [^\w\n]* (?:{_YES}|{_NO}) [^\w\n]* $ )   # so is "yes, no", but not "yes, no difference"
    """,
    re.IGNORECASE | re.VERBOSE,
)
_KEY = re.compile(rf"[\"']\s*(?:{_NAMES})\s*[\"']\s*:", re.IGNORECASE)
_CLOSING_TAG = re.compile(r"</\w{1,30}>")
_MOST_OBJECTS = 50


def read_verdict(reply: str) -> Verdict:
    """Return the verdict of a reply; what the judge thought before `</think>` is not part of it.

    >>> read_verdict("reasoning: the year differs\\nIncorrect: yes\\n**Correct:** no")
    <Verdict.WRONG: 'wrong'>
    >>> read_verdict('```json\\n{"reasoning": "same", "correct": true}\\n```')
    <Verdict.CORRECT: 'correct'>
    """
    _, _, spoken = reply.rpartition("</think>")
    if "<think>" in spoken:
        return Verdict.INVALID  # the tokens ran out while it was thinking
    objects = list(_objects(spoken))
    verdicts = [(end, _verdict_of_value(value)) for _, end, value in objects]
    for line in _LINE.finditer(spoken):
        if not any(start <= line.start() < end for start, end, _ in objects):
            verdicts.append((line.end(), _verdict_of_text(line["value"])))
    return max(verdicts, key=lambda verdict: verdict[0])[1] if verdicts else Verdict.INVALID


def _objects(text: str) -> Iterator[tuple[int, int, Any]]:
    """Yield start, end and verdict of each object in JSON, or as Python prints one, that has a verdict."""
    position = 0
    for _ in range(_MOST_OBJECTS):
        key = _KEY.search(text, position)
        if not key:
            return
        position = key.end()
        for start in _braces_before(text, key.start()):
            found = _object_at(text, start)
            value = _verdict_in(found[0]) if found else None
            if found and value is not None and found[1] > key.start():
                yield start, found[1], value
                position = found[1]
                break


def _braces_before(text: str, end: int) -> Iterator[int]:
    """Yield the places of the nearest opening braces before a key."""
    for _ in range(_MOST_OBJECTS):
        end = text.rfind("{", 0, end)
        if end < 0:
            return
        yield end


def _object_at(text: str, start: int) -> tuple[Any, int] | None:
    try:
        return json.JSONDecoder(strict=False).raw_decode(text, start)
    except (ValueError, RecursionError):
        pass
    end = text.find("}", start) + 1
    try:
        return (ast.literal_eval(text[start:end]), end) if 0 < end < start + 20_000 else None
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None


def _verdict_in(found: Any) -> Any:
    if not isinstance(found, Mapping):
        return None
    by_name = {str(name).strip().lower().replace("_", "").replace(" ", ""): value for name, value in found.items()}
    names = ("correct", "iscorrect", "verdict", "judgement", "judgment", "grade")
    return next((by_name[name] for name in names if by_name.get(name) is not None), None)


def _verdict_of_value(value: Any) -> Verdict:
    if isinstance(value, (bool, int, float)):
        return {1.0: Verdict.CORRECT, 0.0: Verdict.WRONG}.get(float(value), Verdict.INVALID)
    return _verdict_of_text(value) if isinstance(value, str) else Verdict.INVALID


def _verdict_of_text(text: str) -> Verdict:
    """Return the verdict of a value: a word, with or without a reason after it."""
    match = _VALUE.match(_CLOSING_TAG.sub("", text).strip())
    if match is None:
        return Verdict.INVALID
    word = match["word"].lower()
    return Verdict.CORRECT if word in _YES.split("|") else Verdict.WRONG
