"""The detection of rows that belong to another dataset, by their fields; they are refused."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from arpo_verl.data.catalog import DATASETS, Dataset
from arpo_verl.data.fields import Fields, RowError

_HASHES = re.compile(r"####\s*[+-]?[\d.,]+\s*$")
_PLAIN_WORDS = re.compile(r"[A-Za-z][a-z'.-]*(?: [A-Za-z][a-z'.-]*)+")


def _text(fields: Fields, name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def _is_struct(value: Any, *names: str) -> bool:
    return isinstance(value, Mapping) and any(Fields(value).has(name) for name in names)


_MARKS: tuple[tuple[str, str, Callable[[Fields], bool]], ...] = (
    ("gsm8k", "an answer that ends in '#### number'", lambda row: bool(_HASHES.search(_text(row, "answer")))),
    ("musique", "question_decomposition", lambda row: row.has("question_decomposition")),
    ("2wiki", "evidences", lambda row: row.has("evidences")),
    ("hotpotqa", "supporting_facts", lambda row: row.has("supporting_facts") and not row.has("evidences")),
    ("triviaqa", "an answer with value and aliases", lambda row: _is_struct(row.get("answer"), "value", "aliases")),
    ("squad", "answers with answer_start", lambda row: _is_struct(row.get("answers"), "text", "answer_start")),
    ("natural questions", "annotations", lambda row: row.has("annotations")),
    ("gaia", "Annotator Metadata", lambda row: row.has("annotator_metadata")),
    ("hle", "answer_type and rationale", lambda row: row.has("answer_type") and row.has("rationale")),
    ("xbench-deepsearch", "canary", lambda row: row.has("canary") and row.has("reference_steps")),
    ("webwalkerqa", "root_url", lambda row: row.has("root_url")),
    ("simpleqa", "metadata with answer_type", lambda row: "'topic'" in _text(row, "metadata")),
    ("math500", "subject and unique_id", lambda row: row.has("subject") and row.has("unique_id")),
    ("aime24", "a page of artofproblemsolving.com", lambda row: "artofproblemsolving" in _text(row, "url")),
)
"""The marks of datasets: a name, the mark of its rows, and a function that tells whether a row has it."""
_SHARED_MARKS = {"2wiki": {"hotpotqa"}, "aime25": {"aime24"}}
"""Datasets with rows that may have the marks of others."""


_CHOICES = ("choices", "options")


def refuse_choices(fields: Fields) -> None:
    """Refuse a row whose choices stand in a field of their own, where no model would see them.

    Its answer is mostly the number of a choice, which nobody would write.

    Raises:
        RowError: names the field.
    """
    name = next((name for name in _CHOICES if isinstance(fields.get(name), (list, Mapping)) and fields.get(name)), None)
    if name and not isinstance(fields.get("prompt"), list):
        raise RowError(
            f"the row is of multiple choice, by the field {name!r}; expected the choices in the question, as 'A. ...', "
            f"and a letter as its answer: rewrite the rows"
        )


def refuse_rows_of_other_datasets(fields: Fields, dataset: Dataset) -> None:
    """Refuse a row that is not of the dataset whose name the command gave.

    A row that has nothing but a question and an answer may be of any dataset and passes.

    Raises:
        RowError: says whose row it is, by what, and what was expected.
    """
    if dataset.name == "custom":
        return
    name, mark = _owner(fields, dataset) or _kind(fields, dataset) or ("", "")
    if name:
        known = f"convert it as {name}" if name in DATASETS else "convert it as custom"
        raise RowError(
            f"the row is of {name}, by {mark}; expected one of {dataset.name}, {dataset.what}: {known}, or give "
            f"another file as --from"
        )


def _owner(fields: Fields, dataset: Dataset) -> tuple[str, str] | None:
    source = _text(fields, "data_source")
    if not dataset.keeps_data_source and source in DATASETS and source != dataset.name:
        return source, f"data_source {source!r}"
    ours = {dataset.name} | _SHARED_MARKS.get(dataset.name, set())
    found = [(name, mark) for name, mark, has_it in _MARKS if has_it(fields)]
    return None if not found or any(name in ours for name, _ in found) else found[0]


def _kind(fields: Fields, dataset: Dataset) -> tuple[str, str] | None:
    """Return what else a row is: of mathematics, of questions, or no row of verl's."""
    has_prompt = isinstance(fields.get("prompt"), list)
    if dataset.keeps_data_source and not has_prompt:
        return "questions that are not in verl's columns", "a field 'prompt' that is not a list of messages"
    if has_prompt:
        return None
    is_of_problems = fields.has("problem") and not fields.has("question")
    if dataset.ability == "qa" and is_of_problems and (dataset.name != "simpleqa" or fields.has("solution")):
        return "a dataset of mathematics", "the field 'problem'"
    value = fields.get("answer") or fields.get("golden_answers")
    first = value[0] if isinstance(value, list) and value else value
    if dataset.ability == "math" and isinstance(first, str) and _PLAIN_WORDS.fullmatch(first.strip()):
        return "a dataset of questions", "an answer of plain words"
    return None
