"""Converts rows of a public dataset to verl parquet. No row is dropped silently; with a bad row no file is written."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arpo_verl.data.catalog import Dataset
from arpo_verl.data.fields import ANY_ANSWER, ID, QUESTION, Fields, RowError, answers_in
from arpo_verl.data.grading import ability_of, ability_of_source
from arpo_verl.data.messages import messages_of, unpacked
from arpo_verl.data.parquet_output import RowCounts, write_parquet
from arpo_verl.data.prompts import SystemPrompt
from arpo_verl.data.schema import SCHEMA
from arpo_verl.data.shapes import refuse_choices, refuse_rows_of_other_datasets
from arpo_verl.data.source import Source
from arpo_verl.reward.answer import extract_boxed


@dataclass(frozen=True)
class ConversionOptions:
    """The options of a conversion."""

    prompt: SystemPrompt
    split: str
    """`extra_info.split` of rows that do not say."""
    limit: int | None = None
    """The number of first rows to write; None for all."""
    skip_bad_rows: bool = False


def convert(source: Source, dataset: Dataset, out: Path, options: ConversionOptions) -> RowCounts:
    """Write a dataset as one parquet of `SCHEMA`; the file appears when it is complete.

    Raises:
        ValueError: rows are bad (without `skip_bad_rows`), or none is left, or the source as a whole is bad.
        OSError: reading or writing failed.
    """
    result = RowCounts()

    def check() -> None:
        if not options.skip_bad_rows:
            result.refuse_bad_rows()
        result.refuse_empty_output(source.label)

    write_parquet(out, SCHEMA, converted_rows(source, dataset, options, result), check)
    return result


def converted_rows(
    source: Source, dataset: Dataset, options: ConversionOptions, result: RowCounts
) -> Iterator[dict[str, Any]]:
    """Yield the good rows in the output's shape and count all of them in `result`."""
    for number, row in source.rows():
        if result.written == options.limit:
            return
        result.read += 1
        try:
            if isinstance(row, RowError):
                raise row
            fields = Fields(unpacked(dataset.decode(row) if dataset.decode else row))
            reason = next((rule.reason for rule in dataset.exclusions if rule.applies(fields.get(rule.field))), None)
            if reason is not None:
                result.excluded[reason] += 1
                continue
            refuse_rows_of_other_datasets(fields, dataset)
            refuse_choices(fields)
            converted = _converted(_read(fields, dataset), options, index=number - 1)
        except RowError as error:
            result.add_bad(f"{source.label}, row {number}", error)
            continue
        result.written += 1
        yield converted


@dataclass(frozen=True)
class _Example:
    data_source: str
    ability: str
    question: str
    answers: list[str]
    id: str
    level: str
    split: str
    """The row's split; empty if it has none."""
    messages: list[dict[str, str]] | None
    """The prompt that the row comes with."""


def _read(fields: Fields, dataset: Dataset) -> _Example:
    own_source = fields.text_or_empty("data_source") if dataset.keeps_data_source else ""
    messages, said_last = messages_of(fields)
    return _Example(
        data_source=own_source or dataset.name,
        ability=dataset.ability or _ability(fields, own_source),
        question=_question(fields, messages),
        answers=_answers(fields, dataset, is_of_verl=messages is not None, said_last=said_last),
        id=fields.text_or_empty(*ID, "extra_info.id", "extra_info.index"),
        level=fields.text_or_empty(*dataset.level, "extra_info.level"),
        split=fields.text_or_empty("extra_info.split"),
        messages=messages,
    )


def _ability(fields: Fields, data_source: str) -> str:
    """Return what the row says, else what the name of its data source says."""
    said = fields.text_or_empty("ability", "extra_info.ability")
    known = ability_of(said) if said else ability_of_source(data_source)
    if known is None:
        raise RowError(f"field 'ability' is {said!r}; expected math or qa: say which with --ability")
    return known


def _answers(fields: Fields, dataset: Dataset, is_of_verl: bool, said_last: str) -> list[str]:
    truth = "reward_model.ground_truth"
    if is_of_verl and fields.has(truth):
        return answers_in(truth, fields.get(truth))
    if said_last and not fields.has(*ANY_ANSWER, "annotations", "solution"):
        boxed = extract_boxed(said_last)
        if not boxed:
            raise RowError(
                r"no field has the answer, and the assistant's message has no \boxed{}; expected one of them"
            )
        return [boxed]
    return dataset.answers(fields)


def _question(fields: Fields, messages: list[dict[str, str]] | None) -> str:
    if messages is not None:
        return fields.text_or_empty("extra_info.question") or messages[-1]["content"]
    return fields.text("question.text") if fields.has("question.text") else fields.text(*QUESTION)


def _converted(example: _Example, options: ConversionOptions, index: int) -> dict[str, Any]:
    messages = list(example.messages or [{"role": "user", "content": example.question}])
    if example.messages is None or options.prompt.replaces:
        messages = [message for message in messages if message["role"] != "system"]
        if options.prompt.text is not None:
            messages.insert(0, {"role": "system", "content": options.prompt.text})
    own_id = example.id or str(index)
    is_qualified = own_id.startswith(f"{example.data_source}/")
    return {
        "data_source": example.data_source,
        "prompt": messages,
        "ability": example.ability,
        "reward_model": {"style": "rule", "ground_truth": example.answers},
        "extra_info": {
            "split": example.split or options.split,
            "index": index,
            # Unique among datasets too: an evaluation of several in one file tells its prompts apart by it.
            "id": own_id if is_qualified else f"{example.data_source}/{own_id}",
            "question": example.question,
            "ability": example.ability,
            "level": example.level,
        },
    }
