"""Rows of a public dataset to verl parquet. No row is dropped silently, and a bad one leaves no file behind."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arpo_verl.data.catalog import Dataset
from arpo_verl.data.conversion import RowCounts, write_parquet
from arpo_verl.data.fields import ID, QUESTION, Fields, RowError, check_unicode
from arpo_verl.data.prompts import SystemPrompt
from arpo_verl.data.schema import ROLES, SCHEMA
from arpo_verl.data.source import Source


@dataclass(frozen=True)
class Options:
    """How rows are converted."""

    prompt: SystemPrompt
    split: str
    """`extra_info.split` of rows that do not say."""
    limit: int | None = None
    """Rows to write at most, the first ones."""
    skip_bad_rows: bool = False


def convert(source: Source, dataset: Dataset, out: Path, options: Options) -> RowCounts:
    """Write a dataset as one parquet of `SCHEMA`; the file appears when it is complete.

    Raises:
        ValueError: rows are bad (without `skip_bad_rows`), or none is left, or the source as a whole is bad.
        OSError: reading or writing failed.
    """
    result = RowCounts()

    def check() -> None:
        if not options.skip_bad_rows:
            result.refuse_bad_rows()
        result.refuse_emptiness(source.label)

    write_parquet(out, SCHEMA, converted_rows(source, dataset, options, result), check)
    return result


def converted_rows(source: Source, dataset: Dataset, options: Options, result: RowCounts) -> Iterator[dict[str, Any]]:
    """Yield the good rows in the output's shape and count all of them in `result`."""
    for number, row in source.rows():
        if result.written == options.limit:
            return
        result.read += 1
        try:
            if isinstance(row, RowError):
                raise row
            fields = Fields(dataset.decode(row) if dataset.decode else row)
            reason = next((rule.reason for rule in dataset.exclusions if rule.applies(fields.get(rule.field))), None)
            if reason is not None:
                result.excluded[reason] += 1
                continue
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
    """Empty if the row does not say."""
    messages: list[dict[str, str]] | None
    """The prompt that the row comes with."""


def _read(fields: Fields, dataset: Dataset) -> _Example:
    ability = dataset.ability or fields.text_or_empty("ability", "extra_info.ability")
    if ability not in ("math", "qa"):
        raise RowError(f"field 'ability' is {ability!r}; expected math or qa: say which with --ability")
    prompt = fields.get("prompt")
    messages = _messages(prompt) if isinstance(prompt, list) else None
    own_source = fields.text_or_empty("data_source") if dataset.keeps_data_source else ""
    return _Example(
        data_source=own_source or dataset.name,
        ability=ability,
        question=_question(fields, messages),
        answers=dataset.answers(fields) if messages is None else fields.texts("reward_model.ground_truth"),
        id=fields.text_or_empty(*ID, "extra_info.id", "extra_info.index"),
        level=fields.text_or_empty(*dataset.level, "extra_info.level"),
        split=fields.text_or_empty("extra_info.split"),
        messages=messages,
    )


def _question(fields: Fields, messages: list[dict[str, str]] | None) -> str:
    if messages is None:
        return fields.text(*QUESTION)
    return fields.text_or_empty("extra_info.question") or messages[-1]["content"]


def _messages(prompt: list[Any]) -> list[dict[str, str]]:
    for message in prompt:
        if not isinstance(message, Mapping) or message.get("role") not in ROLES:
            raise RowError(f"field 'prompt' has a message without a role; expected one of {', '.join(ROLES)}")
        if not isinstance(message.get("content"), str) or not message["content"].strip():
            raise RowError("field 'prompt' has a message without content; expected text")
        check_unicode("prompt", message["content"])
    if not prompt or prompt[-1]["role"] != "user":
        raise RowError("field 'prompt' does not end with the user's message")
    return [{"role": message["role"], "content": message["content"]} for message in prompt]


def _converted(example: _Example, options: Options, index: int) -> dict[str, Any]:
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
