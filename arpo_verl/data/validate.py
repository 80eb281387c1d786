"""Checks of verl parquet files, read piece by piece: schema, rows, lengths, duplicates, and whether they fit together.

It does not say whether an answer is right, nor whether the questions are in a model's pre-training data.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from arpo_verl.data.checks import (
    RowNeeds,
    contents,
    extra_info,
    prompt_oddities,
    question,
    row_faults,
    row_warnings,
    template_faults,
)
from arpo_verl.data.grading import grading_doubt
from arpo_verl.data.report import Group, ValidationReport
from arpo_verl.data.rows import column_problems, opened_parquet, parquet_rows

_ROWS_AT_A_TIME = 1000
_NEEDS = RowNeeds()

_Row = dict[str, Any]

PromptLengths = Callable[[list[Any]], list[int | str]]
"""A function of prompts, as lists of messages, to their lengths, or to the error of one that has none."""


@dataclass(frozen=True)
class ValidationLimits:
    """The limits that files are checked against."""

    tools: Sequence[str] | None = None
    """The tools whose tags each prompt should show; None: prompts are not searched for tags."""
    prompt_lengths: PromptLengths | None = None
    """The function that counts the tokens of prompts; None: characters are counted."""
    max_prompt_tokens: int | None = None


@dataclass(frozen=True)
class _Place:
    file: Path
    row: int

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}"


@dataclass
class _Seen:
    """The first places of what was read before, by digest."""

    questions: dict[bytes, list[_Place]]
    """The questions in the files before this one."""
    prompts: dict[bytes, _Place] = field(default_factory=dict)
    """The prompts in this file."""
    ids: dict[bytes, _Place] = field(default_factory=dict)
    """The ids in this file."""


def validate(paths: Sequence[Path], limits: ValidationLimits) -> ValidationReport:
    """Return the report of the files, each by itself and together."""
    report = ValidationReport()
    questions: dict[bytes, list[_Place]] = {}
    readable = []
    for path in paths:
        try:
            with opened_parquet(path) as file:
                if _has_right_columns(path, file, report):
                    readable.append(path)
                    for digest, place in _check_rows(path, file, limits, questions, report).items():
                        questions.setdefault(digest, []).append(place)
        except ValueError as error:
            report.error(str(path), str(error).removeprefix(f"{path} "))
    _check_concatenation(readable, report)
    return report


def _has_right_columns(path: Path, file: pq.ParquetFile, report: ValidationReport) -> bool:
    if not file.metadata.num_rows:
        report.error(str(path), "has no row")
        return False
    problems = list(column_problems(file.schema_arrow, _NEEDS))
    for problem in problems:
        report.error(str(path), f"{problem}; `arpo-verl data convert custom` writes verl's columns")
    return not problems


def _check_rows(
    path: Path,
    file: pq.ParquetFile,
    limits: ValidationLimits,
    earlier: dict[bytes, list[_Place]],
    report: ValidationReport,
) -> dict[bytes, _Place]:
    """Check the rows and return the questions of the file."""
    seen = _Seen(earlier)
    questions: dict[bytes, _Place] = {}
    oddities: Counter[str] = Counter()
    count = 0
    for rows in _pieces(parquet_rows(path, file, _NEEDS)):
        usable = []
        for count, row in rows:
            place = _Place(path, count)
            if _check_row(place, row, report):
                usable.append((place, row))
                _check_duplicates(place, row, seen, report)
                questions.setdefault(_digest(question(row)), place)
                oddities.update(f"prompts {oddity}" for oddity in prompt_oddities(row, limits.tools))
            if doubt := grading_doubt(row):
                oddities[f"rows {doubt}"] += 1
            report.rows[_group(path, row)] += 1
        _check_lengths(path, usable, limits, report)
    for oddity, rows_with_it in oddities.items():
        report.warning(str(path), f"{rows_with_it} of {count} {oddity}")
    return questions


def _pieces(rows: Iterator[tuple[int, _Row]]) -> Iterator[list[tuple[int, _Row]]]:
    while piece := list(islice(rows, _ROWS_AT_A_TIME)):
        yield piece


def _check_row(place: _Place, row: _Row, report: ValidationReport) -> bool:
    """Add the row's faults to the report; return whether its prompt can be used."""
    faults = list(row_faults(row, _NEEDS))
    is_askable = not any(fault.is_of_prompt for fault in faults)
    if is_askable:
        faults += template_faults(row["prompt"])
    for fault in faults:
        report.error(str(place), str(fault), fault.kind)
    for problem in row_warnings(row):
        report.warning(str(place), problem)
    return is_askable


def _group(path: Path, row: _Row) -> Group:
    ability = row.get("ability") or extra_info(row).get("ability") or "-"
    return Group(str(path), str(row["data_source"] or "-"), str(ability))


def _check_duplicates(place: _Place, row: dict[str, Any], seen: _Seen, report: ValidationReport) -> None:
    first = seen.prompts.setdefault(_digest("\0".join(contents(row))), place)
    if first != place:
        report.warning(str(place), f"the same prompt as row {first.row}", f"a prompt of {place.file} twice")
    for elsewhere in seen.questions.get(_digest(question(row)), ()):
        problem = f"the same question as {elsewhere}: a model trained on one knows the other"
        report.warning(str(place), problem, f"a question of {place.file} in {elsewhere.file}")
    own_id = extra_info(row).get("id")
    if own_id and (first := seen.ids.setdefault(_digest(str(own_id)), place)) != place:
        problem = f"the same extra_info.id {own_id!r} as row {first.row}"
        report.warning(str(place), problem, f"an extra_info.id of {place.file} twice")


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="replace"), digest_size=16).digest()


def _check_lengths(
    path: Path, rows: list[tuple[_Place, dict[str, Any]]], limits: ValidationLimits, report: ValidationReport
) -> None:
    count = limits.prompt_lengths or _characters
    for (place, row), length in zip(rows, count([row["prompt"] for _, row in rows]), strict=True):
        if isinstance(length, str):
            report.error(str(place), length)
            continue
        group = _group(path, row)
        report.longest_prompt[group] = max(length, report.longest_prompt.get(group, 0))
        if limits.max_prompt_tokens is not None and length > limits.max_prompt_tokens:
            kind = f"field 'prompt' is longer than {limits.max_prompt_tokens} tokens"
            report.error(str(place), f"{kind}: {length}; raise data.max_prompt_length or leave the row out", kind)


def _characters(prompts: list[Any]) -> list[int | str]:
    return [sum(len(message["content"]) for message in prompt) for prompt in prompts]


def prompt_token_counter(folder: str) -> PromptLengths:
    """Return a function that counts a prompt's tokens as verl does, with chat template, but without tool descriptions.

    verl: `utils/dataset/rl_dataset.py`, `maybe_filter_out_long_prompts`.

    Raises:
        ValueError: the folder has no tokenizer, or it has no chat template.
    """
    from jinja2 import TemplateError
    from transformers import AutoTokenizer

    if not Path(folder).is_dir():
        raise ValueError(f"--tokenizer {folder}: no such folder; expected one with a model's tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ValueError(f"--tokenizer {folder}: no tokenizer: {error}") from error
    if not tokenizer.chat_template:
        raise ValueError(f"--tokenizer {folder}: it has no chat template; expected that of an instruction-tuned model")

    def text(prompt: Any) -> str | TemplateError:
        try:
            return str(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False))
        except TemplateError as error:
            return error

    def count(prompts: list[Any]) -> list[int | str]:
        texts = [text(prompt) for prompt in prompts]
        good = [rendered for rendered in texts if isinstance(rendered, str)]
        lengths = iter(tokenizer(good, add_special_tokens=False)["input_ids"] if good else [])
        return [
            len(next(lengths))
            if isinstance(rendered, str)
            else f"field 'prompt': the chat template refuses it: {rendered}"
            for rendered in texts
        ]

    return count


def _check_concatenation(paths: Sequence[Path], report: ValidationReport) -> None:
    """Put the first rows together as verl does (`utils/dataset/rl_dataset.py`, `_read_files_and_tokenize`)."""
    from datasets import Dataset, concatenate_datasets

    heads = []
    for path in paths:
        batch = next(pq.ParquetFile(path).iter_batches(batch_size=1))
        heads.append(Dataset(pa.Table.from_batches([batch])))
    for path, head in list(zip(paths, heads, strict=True))[1:]:
        try:
            concatenate_datasets([heads[0], head])
        except (ValueError, TypeError, pa.ArrowException):
            first, own = heads[0].features, head.features
            differing = [name for name in first if name in own and first[name] != own[name]]
            report.error(
                str(path),
                f"can't be concatenated with {paths[0]}: they differ in column {', '.join(differing)}. Convert both "
                f"with `arpo-verl data convert`; if one is for training and one for validation, check each by itself",
            )
