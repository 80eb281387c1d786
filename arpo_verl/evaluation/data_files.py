"""The dataset of an evaluation: verl's columns, checked row by row, and what the run's file keeps of a row."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from arpo_verl.evaluation.records import DataFile
from arpo_verl.evaluation.runner import Prompt
from arpo_verl.reward.accepted import accepted_answers

_NOT_SPLIT_BY = ("id", "index", "split")
"""Keys of `extra_info` that tell rows apart or are the same in all of them."""
_WEIGHTS = (".safetensors", ".bin")
_END_BYTES = 1 << 20


def fingerprint(path: Path) -> DataFile:
    """Return a file's name and digest."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return DataFile(str(path), digest.hexdigest())


def weights_fingerprint(folder: Path) -> str | None:
    """Return a digest of a model's configuration and weights, or None where there is no such folder.

    Of each file of weights it takes the size and both ends, because reading tens of gigabytes takes minutes; training
    changes all of them.
    """
    files = sorted(file for file in folder.glob("*") if file.suffix in _WEIGHTS) if folder.is_dir() else []
    if not files:
        return None
    digest = hashlib.sha256((folder / "config.json").read_bytes() if (folder / "config.json").is_file() else b"")
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(_END_BYTES))
            file.seek(max(0, size - _END_BYTES))
            digest.update(file.read())
    return digest.hexdigest()


def check_parquet(path: Path, prompt_key: str) -> None:
    """Check what an evaluation needs of each row.

    Raises:
        ValueError: the file, a column or a row is not as verl's columns are; names the file, the row and the field.
    """
    columns = ["data_source", prompt_key, "reward_model"]
    try:
        table = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is not a parquet file: {error}") from error
    missing = [column for column in columns if column not in table.schema_arrow.names]
    if missing:
        raise ValueError(f"{path} has the columns {table.schema_arrow.names}; expected {columns}: add {missing}")
    if table.metadata.num_rows == 0:
        raise ValueError(f"{path} has no rows; expected at least one: check how it was made")
    number = 0
    for batch in table.iter_batches(columns=columns):
        for row in batch.to_pylist():
            if problem := _problem(row, prompt_key):
                raise ValueError(f"{path}, row {number}: {problem}")
            number += 1


def _problem(row: Mapping[str, Any], prompt_key: str) -> str | None:
    missing = [name for name in ("data_source", prompt_key, "reward_model") if row.get(name) is None]
    if missing:
        return f"no {', '.join(missing)}; expected verl's columns: add it"
    prompt, reward_model = row[prompt_key], row["reward_model"]
    is_chat = isinstance(prompt, list) and all(isinstance(one, dict) and one.get("content") for one in prompt)
    if not is_chat or not any(one.get("role") == "user" for one in prompt):
        return f"{prompt_key}={str(prompt)[:200]}; expected messages {{'role', 'content'}}, one of a user: convert it"
    truth = reward_model.get("ground_truth") if isinstance(reward_model, dict) else None
    if not truths_of(truth):
        return f"reward_model.ground_truth={truth!r}; expected an answer or a list of accepted ones: add one"
    if not row["data_source"]:
        return f"data_source={row['data_source']!r}; expected a name: add one"
    return None


def truths_of(ground_truth: Any) -> list[str]:
    """Return the accepted answers; an empty list where there is none."""
    try:
        return [truth for truth in accepted_answers(ground_truth) if truth.strip()]
    except ValueError:  # neither text nor numbers
        return []


def prompts_of(rows: Sequence[Mapping[str, Any]], prompt_key: str) -> list[Prompt]:
    """Return what the run's file keeps of the rows.

    A prompt's id is its data source with `extra_info.id`, or `extra_info.index`, or the row's number; where two rows
    have the same, the later one gets a number of its own, so that ids do not depend on the rows that follow.

    Raises:
        ValueError: a row is not as verl's columns are.
    """
    seen: dict[str, int] = {}
    prompts = []
    for number, row in enumerate(rows):
        if problem := _problem(row, prompt_key):
            raise ValueError(f"row {number} of the data: {problem}")
        extra = row.get("extra_info") or {}
        name = next((extra[key] for key in ("id", "index") if extra.get(key) is not None), number)
        one = f"{row['data_source']}/{name}"
        seen[one] = seen.get(one, 0) + 1
        questions = [message["content"] for message in row[prompt_key] if message.get("role") == "user"]
        prompts.append(
            Prompt(
                id=one if seen[one] == 1 else f"{one}#{seen[one]}",
                data_source=str(row["data_source"]),
                ability=str(row.get("ability") or ""),
                question=str(questions[-1]),
                truths=truths_of(row["reward_model"]["ground_truth"]),
                extra={
                    key: value
                    for key, value in extra.items()
                    if isinstance(value, (str, int, float, bool)) and key not in _NOT_SPLIT_BY
                },
            )
        )
    return prompts
