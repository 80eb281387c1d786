"""The accepted answers of a row, as a list of texts, whatever form `reward_model.ground_truth` has in the dataset.

| in the dataset                                             | accepted answers                       |
|------------------------------------------------------------|----------------------------------------|
| a text                                                     | itself, without white space around it  |
| a list of strings as text, JSON or Python: `'["34"]'`      | its elements                           |
| `[1, 2]`, `(0, 1]` as text                                 | itself: an interval, a vector          |
| an integer, 34.0, NumPy's numbers, `Decimal`               | `34`                                   |
| 1e-5                                                       | `0.00001`                              |
| a date, which `datasets` reads `2020-01-02` in JSON as     | `2020-01-02`                           |
| 0.1 that was stored as float32 and reads 0.100000001490... | `0.1`                                  |
| a list, tuple or NumPy array of these                      | all of them                            |
| `{"target": ...}`, the rows of Search-R1, also as text     | those of `target`                      |

None, NaN, bytes, lists of lists and other mappings are no answers.
"""

import ast
import json
import math
import re
import struct
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

_LONGEST_EXPONENT = 30
"""Numbers beyond 1e30 and below 1e-30 keep their exponent."""
_DIGITS_OF_A_FLOAT32 = range(6, 10)
"""Significant digits of which one count always gives a float32 back."""
_LARGEST_FLOAT32 = 3.4e38
_LONG = 14
"""Significant digits that nobody writes, but that a float32 has when it is read as a double."""
_STRING = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
_STRINGS = re.compile(rf"[\[(]\s*(?:{_STRING}(?:\s*,\s*|\s+|(?=\s*[\])])))+[\])]", re.DOTALL)
"""A list or tuple of strings; without commas, as NumPy prints an array."""
_ONE_STRING = re.compile(_STRING, re.DOTALL)
_ONE_NUMBER = re.compile(r"\[\s*([+-]?[\d.]+(?:[eE][+-]?\d+)?)\s*,?\s*\]")
_LOST_COMMAND = re.compile(r"[\b\f\t\r\v]|\n(?=u|e(?:q|g)?\b|abla|ot|mid|parallel|leq|geq)")
r"""What `\frac`, `\times` and `\ne` become where a single backslash is read as an escape."""


class AnswerError(ValueError):
    """A ground truth that has no accepted answer in it."""

    def __init__(self, ground_truth: Any, fault: str) -> None:
        super().__init__(
            f"ground truth {short_repr(ground_truth)} {fault}; expected a text, a number or a list of them: "
            f"correct reward_model.ground_truth in the dataset"
        )
        self.fault = fault
        """The fault without the value, so that equal faults have equal texts."""


def accepted_answers(ground_truth: Any) -> list[str]:
    """Return the accepted answers of a row; blank ones are left out, and the list may be empty.

    Raises:
        AnswerError: it holds something that is no answer.
    """
    return [text for text in _texts(ground_truth) if text]


def ground_truth_fault(ground_truth: Any) -> str | None:
    """Return what keeps a row from being scored by its ground truth, or None.

    Stricter than `accepted_answers`: a blank answer, which an empty response would match, is a fault, and so is a
    boolean, which may stand for `yes`, `true` or `1`.
    """
    try:
        texts = list(_texts(ground_truth))
    except AnswerError as error:
        return error.fault
    if not texts:
        return "has no answer"
    if not all(texts):
        return "has an empty answer" if len(texts) > 1 else "is empty"
    if any(isinstance(element, bool) for element in _elements(ground_truth)):
        return "is a boolean, which says nothing about how it is written ('yes', 'true')"
    return None


def answer_text(value: Any) -> str | None:
    """Return one answer as text, or None where the value is neither text nor a finite number.

    >>> answer_text(1e-5), answer_text(34.0), answer_text(" 34 ")
    ('0.00001', '34', '34')
    """
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, (bool, int)):
        return str(value)
    if isinstance(value, float):
        return _decimal_text(_shortest(value)) if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return _decimal_text(str(value)) if value.is_finite() else None
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == time() else value.isoformat(sep=" ")
    return value.isoformat() if isinstance(value, date) else None


def short_repr(value: Any, most: int = 120) -> str:
    """Return the `repr` of a value, shortened for an error message."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def _texts(ground_truth: Any) -> Iterator[str]:
    for element in _elements(ground_truth):
        text = answer_text(element)
        if text is None:
            raise AnswerError(ground_truth, _fault_of(element, ground_truth))
        yield text


def _fault_of(element: Any, ground_truth: Any) -> str:
    within = "" if element is ground_truth else "has an answer that "
    if element is None:
        return f"{within}is null"
    if isinstance(element, (float, Decimal)):
        return f"{within}is {element}, which is not a finite number"
    return f"{within}is a {type(element).__name__}"


def _elements(ground_truth: Any) -> Iterator[Any]:
    """Yield the single answers, lists and texts that stand for lists taken apart."""
    value = _plain(ground_truth)
    if isinstance(value, str):
        value = _parsed(value)
    if isinstance(value, Mapping) and "target" in value:
        value = _plain(value["target"])
        value = _parsed(value) if isinstance(value, str) else value
    if not isinstance(value, (list, tuple)):
        yield value
        return
    for element in map(_plain, value):
        inner = _parsed(element) if isinstance(element, str) else element
        if isinstance(inner, list) and isinstance(element, str):
            yield from inner
        else:
            yield element


def _plain(value: Any) -> Any:
    """Return NumPy's scalars and arrays as Python's values, its floats by their own shortest digits."""
    if not hasattr(value, "tolist"):
        return value
    plain = value.tolist()
    if type(value).__module__ != "numpy":
        return plain
    if isinstance(plain, float):
        return Decimal(str(value))
    if isinstance(plain, list) and getattr(value, "dtype", None) is not None and value.dtype.kind == "f":
        return [_plain(element) for element in value]
    return plain


def _parsed(text: str) -> Any:
    """Return the list or mapping that a text stands for, or the text."""
    stripped = text.strip()
    ends = stripped[:1] + stripped[-1:]
    if ends in ("[]", "()") and _STRINGS.fullmatch(stripped):
        return [_string(literal) for literal in _ONE_STRING.findall(stripped)]
    if ends == "[]":
        if not stripped[1:-1].strip():
            return []
        if number := _ONE_NUMBER.fullmatch(stripped):
            return [number[1]]
        value = _read(stripped)
        if isinstance(value, list) and any(isinstance(one, (str, type(None))) for one in value):
            return value
    if ends == "{}" and "target" in stripped:
        value = _read(stripped)
        if isinstance(value, dict) and "target" in value:
            return value
    return text


def _read(text: str) -> Any:
    """Return what JSON or Python reads in a text, None where it is of neither."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
    return None


def _string(literal: str) -> str:
    r"""Return the value of a quoted string; `"\frac12"`, whose backslash should have been doubled, is `\frac12`."""
    inner = literal[1:-1]
    if "\\" not in inner:
        return inner
    as_json = literal if literal[0] == '"' else f'"{_requoted(inner)}"'
    try:
        value = str(json.loads(as_json, strict=False))
    except ValueError:  # a backslash that begins no escape
        return inner
    return inner if _LOST_COMMAND.search(value) else value


def _requoted(inner: str) -> str:
    return inner.replace("\\'", "'").replace('"', '\\"')


def _shortest(value: float) -> str:
    """Return the digits of a float; of one that was a float32, the fewest that give that float32 back."""
    digits = repr(value)
    if len(Decimal(digits).normalize().as_tuple().digits) < _LONG or abs(value) > _LARGEST_FLOAT32:
        return digits
    if struct.unpack("f", struct.pack("f", value))[0] != value:
        return digits
    for precision in _DIGITS_OF_A_FLOAT32:
        short = f"{value:.{precision}g}"
        if struct.unpack("f", struct.pack("f", float(short)))[0] == value:
            return short
    return digits


def _decimal_text(digits: str) -> str:
    """Return a number without exponent and without a fraction of zeros."""
    number = Decimal(digits)
    if not number:
        return "0"
    if not -_LONGEST_EXPONENT <= number.adjusted() <= _LONGEST_EXPONENT:
        return digits
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
