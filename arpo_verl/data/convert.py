"""Rows of a public dataset to verl parquet. No row is dropped silently, and a bad one leaves no file behind."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from arpo_verl.data.catalog import Dataset
from arpo_verl.data.fields import ID, QUESTION, Fields, RowError, check_unicode
from arpo_verl.data.prompts import SystemPrompt
from arpo_verl.data.schema import ROLES, SCHEMA
from arpo_verl.data.source import Source

_ROWS_AT_A_TIME = 1000
_SHOWN_BAD_ROWS = 10


@dataclass(frozen=True)
class Options:
    """How rows are converted."""

    prompt: SystemPrompt
    split: str
    """`extra_info.split` of rows that do not say."""
    limit: int | None = None
    """Rows to write at most, the first ones."""
    skip_bad_rows: bool = False


@dataclass
class Conversion:
    """What became of the rows: `read` is `written` plus those excluded and those that are bad."""

    read: int = 0
    written: int = 0
    excluded: Counter[str] = field(default_factory=Counter)
    """By reason."""
    bad: Counter[str] = field(default_factory=Counter)
    """By what is wrong."""
    bad_rows: list[str] = field(default_factory=list)
    """The first of them: file, row, and what is wrong."""

    def refuse_bad_rows(self) -> None:
        """Raise ValueError if there is one."""
        count = self.bad.total()
        if not count:
            return
        more = [f"... and {count - len(self.bad_rows)} more"] if count > len(self.bad_rows) else []
        raise ValueError(
            "\n  ".join([f"{count} of {self.read} rows are bad, nothing was written:", *self.bad_rows, *more])
            + "\nCorrect the file, or leave them out with --skip-bad-rows"
        )

    def refuse_emptiness(self, label: str) -> None:
        """Raise ValueError if no row is left."""
        if self.written:
            return
        reasons = [f"{count} excluded: {reason}" for reason, count in self.excluded.items()]
        reasons += [f"{count} bad: {reason}" for reason, count in self.bad.items()]
        raise ValueError(
            f"{label}: no row is left of {self.read}, nothing was written; {'; '.join(reasons) or 'it is empty'}"
        )


def convert(source: Source, dataset: Dataset, out: Path, options: Options) -> Conversion:
    """Write a dataset as one parquet of `SCHEMA`; the file appears when it is complete.

    Raises:
        ValueError: rows are bad (without `skip_bad_rows`), or none is left, or the source as a whole is bad.
        OSError: reading or writing failed.
    """
    result = Conversion()
    rows = converted_rows(source, dataset, options, result)
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with pq.ParquetWriter(unfinished, SCHEMA) as writer:
            batch: list[dict[str, Any]] = []
            for row in rows:
                batch.append(row)
                if len(batch) == _ROWS_AT_A_TIME:
                    writer.write_table(pa.Table.from_pylist(batch, SCHEMA))
                    batch = []
            writer.write_table(pa.Table.from_pylist(batch, SCHEMA))
        if not options.skip_bad_rows:
            result.refuse_bad_rows()
        result.refuse_emptiness(source.label)
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)
    return result


def converted_rows(source: Source, dataset: Dataset, options: Options, result: Conversion) -> Iterator[dict[str, Any]]:
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
            result.bad[str(error)] += 1
            if len(result.bad_rows) < _SHOWN_BAD_ROWS:
                result.bad_rows.append(f"{source.label}, row {number}: {error}")
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
