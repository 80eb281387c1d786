"""Reading the fields of a dataset's row, whose names and types differ from one public file to the next."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from arpo_verl.reward.answer import extract_boxed

QUESTION = ("question", "problem", "query", "input", "prompt")
ANSWER = ("answer", "golden_answers", "final_answer", "ground_truth", "expected_answer", "output")
ID = ("id", "_id", "unique_id", "task_id", "qid", "idx")
_NUMBER = re.compile(r"[+-]?\d[\d,]*(\.\d+)?")


class RowError(ValueError):
    """What is wrong with one row; the same text for the same fault, so that faults can be counted."""


class Fields:
    """A row whose fields are found by any of several names, whatever their case, with spaces or underscores."""

    def __init__(self, row: Mapping[Any, Any]) -> None:
        # A row of a CSV file that is too long has the rest under None.
        self._names = {_plain(name): name for name in row if isinstance(name, str)}
        self._row = row

    def get(self, path: str) -> Any:
        """Return the value of a field, of a field of a field if the path has a dot, or None."""
        head, _, rest = path.partition(".")
        value = self._row.get(self._names.get(_plain(head)))
        if not rest:
            return value
        return Fields(value).get(rest) if isinstance(value, Mapping) else None

    def text(self, *paths: str) -> str:
        """Return the first that is not empty, as text.

        Raises:
            RowError: there is none, or it is neither text nor a number.
        """
        path = self._first(paths)
        return _as_text(path, self.get(path))

    def text_or_empty(self, *paths: str) -> str:
        """Return the first that is not empty, as text, or `""`."""
        for path in paths:
            if not _is_empty(self.get(path)):
                return _as_text(path, self.get(path))
        return ""

    def texts(self, *paths: str) -> list[str]:
        """Return the first that is not empty as a list of different texts; it may be a list, text or a number.

        Raises:
            RowError: there is none, or an element is empty, or neither text nor a number.
        """
        path = self._first(paths)
        value = self.get(path)
        if not isinstance(value, (list, tuple)):
            return [_as_text(path, value)]
        return list(dict.fromkeys(_as_text(path, element) for element in value))

    def _first(self, paths: Sequence[str]) -> str:
        for path in paths:
            if not _is_empty(self.get(path)):
                return path
        for path in paths:
            if _plain(path.partition(".")[0]) in self._names:
                raise RowError(f"field {path!r} is empty; expected text, a number or a list of them")
        expected = " or ".join(repr(path) for path in paths)
        raise RowError(f"field {expected} is missing; got {', '.join(self._names.values()) or 'no field'}")


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_")


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or (isinstance(value, list) and not value)


def _as_text(path: str, value: Any) -> str:
    """Return text or a number as text: 204.0, as an integer column with gaps becomes, is `204`."""
    if _is_empty(value):
        raise RowError(f"field {path!r} has an empty element; expected text or a number")
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise RowError(f"field {path!r} is a {type(value).__name__}; expected text, a number or a list of them")
    check_unicode(path, value)
    return value.strip()


def check_unicode(path: str, text: str) -> None:
    """Raise RowError if the text, as JSON allows it, can't be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RowError(f"field {path!r} has half of a surrogate pair; expected valid Unicode") from None


def plain_answers(fields: Fields) -> list[str]:
    """Return the answer, or the list of them."""
    return fields.texts(*ANSWER)


def answers_with_aliases(fields: Fields) -> list[str]:
    """Return the answer and its aliases."""
    aliases = ("answer_aliases", "aliases", "possible_answers")
    has_aliases = any(fields.get(name) for name in aliases)
    return list(dict.fromkeys(plain_answers(fields) + (fields.texts(*aliases) if has_aliases else [])))


def answer_or_boxed(fields: Fields) -> list[str]:
    r"""Return the answer, or what the solution has in its last `\boxed{}`, where a file has no field for the answer."""
    if any(not _is_empty(fields.get(name)) for name in ANSWER) or fields.get("solution") is None:
        return plain_answers(fields)
    boxed = extract_boxed(fields.text("solution"))
    if not boxed:
        raise RowError(r"field 'answer' is missing and 'solution' has no \boxed{}; expected one of them")
    return [boxed]


def answer_after_hashes(fields: Fields) -> list[str]:
    """Return the number after `####` without its commas, or the whole answer where it is a number."""
    answers = []
    for text in plain_answers(fields):
        number = text.rpartition("####")[2].strip().replace(",", "")
        if "####" not in text and not _NUMBER.fullmatch(text):
            raise RowError("field 'answer' has no '####'; expected a solution that ends in '#### number'")
        if not number:
            raise RowError("field 'answer' has nothing after '####'; expected a number")
        answers.append(number)
    return answers
