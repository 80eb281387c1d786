"""Reading the fields of a dataset's row, whose names and types differ from one public file to the next."""

from collections.abc import Iterable, Mapping
from typing import Any

from arpo_verl.reward.accepted import accepted_answers, answer_text, ground_truth_fault

QUESTION = ("question", "problem", "query", "input", "prompt", "question_text")
ANSWER = ("answer", "answers", "golden_answers", "final_answer", "ground_truth", "expected_answer", "output")
ANY_ANSWER = ("reward_model.ground_truth", *ANSWER, "possible_answers", "gold", "target", "label")
"""The names of an answer's field in rows of an unknown dataset."""
ID = ("id", "_id", "unique_id", "task_id", "qid", "idx", "question_id", "example_id")


class RowError(ValueError):
    """A fault of one row; equal faults have equal texts, so that they can be counted."""


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
        path = self.first(*paths)
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
        path = self.first(*paths)
        return answers_in(path, self.get(path))

    def has(self, *paths: str) -> bool:
        """Return whether one of the fields is not empty."""
        return any(not _is_empty(self.get(path)) for path in paths)

    def first(self, *paths: str) -> str:
        """Return the first that is not empty.

        Raises:
            RowError: there is none.
        """
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
    return value is None or (isinstance(value, str) and not value.strip()) or value in ([], {})


def answers_in(path: str, value: Any) -> list[str]:
    """Return the different accepted answers in a value; see `arpo_verl.reward.accepted`.

    Raises:
        RowError: there is none, or one of them is no answer; `path` names the field.
    """
    fault = ground_truth_fault(value)
    if fault is not None:
        raise RowError(f"field {path!r} {fault}; expected text, a number or a list of them")
    return unique_texts(path, accepted_answers(value))


def unique_texts(path: str, texts: Iterable[str]) -> list[str]:
    """Return each text once, checked for Unicode."""
    kept = list(dict.fromkeys(texts))
    for text in kept:
        check_unicode(path, text)
    return kept


def _as_text(path: str, value: Any) -> str:
    """Return text or a number as text: 204.0, as an integer column with gaps becomes, is `204`."""
    text = None if isinstance(value, bool) else answer_text(value)
    if not text:
        raise RowError(f"field {path!r} is a {type(value).__name__}; expected text or a number")
    check_unicode(path, text)
    return text


def check_unicode(path: str, text: str) -> None:
    """Raise RowError if the text, as JSON allows it, can't be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RowError(f"field {path!r} has half of a surrogate pair; expected valid Unicode") from None
