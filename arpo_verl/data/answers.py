"""The accepted answers of a row, in the shapes that public datasets have them in."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from arpo_verl.data.fields import ANSWER, ANY_ANSWER, Fields, RowError, answers_in, unique_texts
from arpo_verl.reward.accepted import AnswerError, accepted_answers
from arpo_verl.reward.answer import extract_boxed

_NUMBER = re.compile(r"[+-]?\d[\d,]*(\.\d+)?")
_HASHES = "####"
_ALIASES = ("answer_aliases", "aliases", "possible_answers")


def plain_answers(fields: Fields) -> list[str]:
    """Return the answer, or the list of them."""
    return fields.texts(*ANSWER)


def answers_with_aliases(fields: Fields) -> list[str]:
    """Return the answer and its aliases."""
    has_aliases = any(fields.get(name) for name in _ALIASES)
    return list(dict.fromkeys(plain_answers(fields) + (fields.texts(*_ALIASES) if has_aliases else [])))


def answer_or_boxed(fields: Fields) -> list[str]:
    r"""Return the answer, or what the solution has in its last `\boxed{}`, where a file has no field for the answer."""
    if fields.has(*ANSWER) or fields.get("solution") is None:
        return plain_answers(fields)
    boxed = extract_boxed(fields.text("solution"))
    if not boxed:
        raise RowError(r"field 'answer' is missing and 'solution' has no \boxed{}; expected one of them")
    return [boxed]


def contest_answer(fields: Fields) -> list[str]:
    """Return the answer of a contest whose answers are the integers from 0 to 999, as AIME's are."""
    answers = answer_or_boxed(fields)
    if not all(text.isascii() and text.isdigit() and len(text) <= 3 for text in answers):
        raise RowError("field 'answer' is not an integer from 0 to 999; expected AIME's")
    return answers


def answer_after_hashes(fields: Fields) -> list[str]:
    """Return the number after `####` without its commas, or the whole answer where it is a number."""
    answers = []
    for text in plain_answers(fields):
        if _HASHES not in text and not _NUMBER.fullmatch(text):
            raise RowError("field 'answer' has no '####'; expected a solution that ends in '#### number'")
        answers.append(_after_hashes(text))
    return answers


def _after_hashes(text: str) -> str:
    number = text.rpartition(_HASHES)[2].strip().replace(",", "")
    if not number:
        raise RowError("field 'answer' has nothing after '####'; expected a number")
    return number


def answers_of_any_shape(fields: Fields) -> list[str]:
    r"""Return the accepted answers of a row whose shape is not known beforehand.

    | shape                                     | accepted answers                                                    |
    |-------------------------------------------|---------------------------------------------------------------------|
    | a field of `ANY_ANSWER`, a text or list   | as `arpo_verl.reward.accepted` reads it, with `answer_aliases`      |
    | a solution that ends in `#### 18`         | 18                                                                  |
    | TriviaQA: `{"value", "aliases"}`          | the value and the aliases, without the normalised copies            |
    | SQuAD: `{"text": [...]}` or a list of     | the texts                                                           |
    | `{"text"}`                                |                                                                     |
    | NQ: `annotations` with `short_answers`    | the short answers, or yes and no                                    |
    | Search-R1: `{"target": [...]}`            | the targets                                                         |
    | messages that end with the assistant's    | what stands in its last `\boxed{}`                                  |
    | or `solution`, without an answer          |                                                                     |
    """
    if fields.get("annotations") is not None and not fields.has(*ANY_ANSWER):
        return _natural_questions(fields)
    if not fields.has(*ANY_ANSWER) and fields.has("solution"):
        return answer_or_boxed(fields)
    path = fields.first(*ANY_ANSWER)
    value = fields.get(path)
    found = _nested(path, value)
    if found is None:
        found = answers_in(path, value)
        found = [_after_hashes(text) if _ends_in_hashes(text) else text for text in found]
    aliases = [fields.texts(name) for name in _ALIASES if name != path and fields.has(name)]
    return list(dict.fromkeys([*found, *(alias for texts in aliases for alias in texts)]))


def _ends_in_hashes(text: str) -> bool:
    return _NUMBER.fullmatch(text.rpartition(_HASHES)[2].strip()) is not None and _HASHES in text


def _nested(path: str, value: Any) -> list[str] | None:
    """Return the answers of TriviaQA's and SQuAD's structs, or None where the value is no such thing."""
    structs = [value] if isinstance(value, Mapping) else value
    if not isinstance(structs, Sequence) or not structs or not all(isinstance(one, Mapping) for one in structs):
        return None
    texts: list[str] = []
    for one in map(Fields, structs):
        name = next((name for name in ("value", "text") if one.has(name)), None)
        if name is None:
            return None
        for text in (*_texts(f"{path}.{name}", one.get(name)), *_texts(f"{path}.aliases", one.get("aliases") or [])):
            texts.append(text)
    if not texts:
        raise RowError(f"field {path!r} has no answer; expected text, a number or a list of them")
    return unique_texts(path, texts)


def _texts(path: str, value: Any) -> Iterator[str]:
    """Yield answers, blank ones left out: aliases that were normalised may be."""
    try:
        yield from accepted_answers(value)
    except AnswerError as error:
        raise RowError(f"field {path!r} {error.fault}; expected text, a number or a list of them") from None


def _natural_questions(fields: Fields) -> list[str]:
    """Return the short answers of the original Natural Questions, in the forms of Google's files and of the Hub."""
    texts: list[str] = []
    for annotation in _structs(fields.get("annotations")):
        for answer in _structs(annotation.get("short_answers")):
            texts += _short_answer(answer, fields)
        texts += _yes_or_no(annotation.get("yes_no_answer"))
    if not texts:
        raise RowError("field 'annotations' has no short answer; expected short_answers, or yes_no_answer")
    return unique_texts("annotations", texts)


def _structs(value: Any) -> list[Fields]:
    """Return the structs of a list of them, or a struct alone; whatever else there is has no answer."""
    values = [value] if isinstance(value, Mapping) else value if isinstance(value, Iterable) else []
    return [Fields(one) for one in values if isinstance(one, Mapping)]


def _short_answer(answer: Fields, row: Fields) -> list[str]:
    if answer.has("text"):
        return list(_texts("annotations.short_answers.text", answer.get("text")))
    document, start, end = row.get("document_text"), answer.get("start_token"), answer.get("end_token")
    if isinstance(document, str) and isinstance(start, int) and isinstance(end, int) and 0 <= start < end:
        return [" ".join(document.split(" ")[start:end])]
    return []


def _yes_or_no(value: Any) -> list[str]:
    """Return the answer that `YES`, 1 or a list of such values stands for."""
    names = {"yes": "yes", "no": "no", "1": "yes", "0": "no"}
    values = value if isinstance(value, list) else [value]
    return [names[str(one).casefold()] for one in values if str(one).casefold() in names]
