"""The dataset of a run: the prompts in its rows, and digests of files."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arpo_verl.data.checks import RowNeeds, row_faults
from arpo_verl.evaluation.records import DataFile
from arpo_verl.reward.accepted import accepted_answers

_NOT_SPLIT_BY = ("id", "index", "split")
"""Keys of `extra_info` that tell rows apart or are the same in all of them."""
_WEIGHTS = (".safetensors", ".bin")
_END_BYTES = 1 << 20


@dataclass(frozen=True)
class Prompt:
    """What the file keeps of a dataset row; `SampleRecord` says what each field is."""

    id: str
    data_source: str
    ability: str
    question: str
    truths: list[str]
    extra: dict[str, Any]


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


def prompts_of(rows: Sequence[Mapping[str, Any]], prompt_key: str) -> list[Prompt]:
    """Return the prompts of the rows, as the run's file keeps them.

    A prompt's id is its data source with `extra_info.id`, or `extra_info.index`, or the row's number; where two rows
    have the same, the later one gets a number of its own, so that ids do not depend on the rows that follow.

    Raises:
        ValueError: a row is not what a run needs, which a dataset class of one's own may bring about.
    """
    seen: dict[str, int] = {}
    prompts = []
    needs = RowNeeds(prompt_key)
    for number, row in enumerate(rows):
        if fault := next(row_faults(row, needs), None):
            raise ValueError(f"row {number + 1} of the data, counted from 1: {fault}: correct it")
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
                truths=accepted_answers(row["reward_model"]["ground_truth"]),
                extra={
                    key: value
                    for key, value in extra.items()
                    if isinstance(value, (str, int, float, bool)) and key not in _NOT_SPLIT_BY
                },
            )
        )
    return prompts
