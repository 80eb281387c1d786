"""The sources of rows: a local parquet, JSONL, JSON or CSV file, or a dataset on the Hugging Face Hub.

Parquet, JSONL and CSV are read piece by piece; a JSON array, and what the Hub's client downloads, as a whole. Rows are
counted from 1; a row of JSONL is its line.
"""

import csv
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from arpo_verl.data.fields import RowError

NumberedRow = tuple[int, Mapping[Any, Any] | RowError]
"""The number of a row, and its fields, or why it has none."""

_ROWS_AT_A_TIME = 256
_LONGEST_CSV_FIELD = 1 << 30
_HUB_TIMEOUT_SECONDS = 5
_ROW_LISTS = ("data", "rows", "examples", "questions")
"""The names under which a JSON object has its list of rows."""
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


@dataclass(frozen=True)
class Source:
    """A file, or a split of a dataset on the Hub."""

    label: str
    """Its name in messages."""
    rows: Callable[[], Iterator[NumberedRow]]
    """A function that yields the rows in order; it raises ValueError or OSError if the file as a whole is bad."""


def open_source(name: str, split: str, config: str | None) -> Source:
    """Return a file's or a Hub dataset's rows, unread.

    Args:
        name: a path, `OWNER/DATASET` or `OWNER/DATASET:CONFIG`.
        split: of the Hub dataset.
        config: of the Hub dataset, if the name has none.

    Raises:
        ValueError: it is neither, or of an unknown format.
        OSError: there is no such file, or the Hub can't be reached.
    """
    path = Path(name)
    if path.is_file():
        if path.suffix not in _READERS:
            raise ValueError(f"{name}: got the suffix {path.suffix!r}; expected one of {', '.join(_READERS)}")
        return Source(path.name, lambda: file_rows(path))
    if path.is_dir():
        raise ValueError(f"{name} is a folder; expected one of the files in it")
    if path.suffix in _READERS or not _HUB_ID.fullmatch(name):
        raise FileNotFoundError(
            f"{name}: no such file; expected a file ({', '.join(_READERS)}) or a Hub id OWNER/DATASET"
        )
    hub_id, _, named_config = name.partition(":")
    _check_hub(hub_id)
    config = named_config or config
    return Source(f"{hub_id}[{split}]", lambda: _hub_rows(hub_id, config, split))


def _parquet_rows(path: Path) -> Iterator[NumberedRow]:
    try:
        file = pq.ParquetFile(path)
        number = 0
        for batch in file.iter_batches(batch_size=_ROWS_AT_A_TIME):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except pa.ArrowException as error:
        raise ValueError(f"{path} is not a readable parquet: {error}") from error


def _jsonl_rows(path: Path) -> Iterator[NumberedRow]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, _json_row(line)


def _json_row(line: bytes) -> Mapping[Any, Any] | RowError:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return RowError(f"the line is not a JSON object: {error}")
    return _as_row(row)


def _as_row(row: Any) -> Mapping[Any, Any] | RowError:
    return row if isinstance(row, dict) else RowError(f"got a JSON {type(row).__name__}; expected an object")


def _json_rows(path: Path) -> Iterator[NumberedRow]:
    with path.open("rb") as file:
        first = file.readline()
        is_more = any(line.strip() for line in file)
    if is_more and not isinstance(_json_row(first), RowError):  # the name of many a public file of JSON lines
        yield from _jsonl_rows(path)
        return
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    rows = _rows_of(document)
    if rows is None:
        raise ValueError(
            f"{path} has a JSON {type(document).__name__}; expected an array of objects, an object with one in 'data', "
            f"or JSON lines"
        )
    for number, row in enumerate(rows, start=1):
        yield number, _as_row(row)


def _rows_of(document: Any) -> list[Any] | None:
    """Return the rows of a JSON document: an array, or an object with one in `data`, as SQuAD and TriviaQA have it."""
    if isinstance(document, dict):
        data = next((value for name, value in document.items() if name.casefold() in _ROW_LISTS), [document])
        return [row for part in data for row in _questions_of(part)] if isinstance(data, list) else None
    return document if isinstance(document, list) else None


def _questions_of(part: Any) -> list[Any]:
    """Return the questions of an article in SQuAD's own files, or the part itself."""
    paragraphs = part.get("paragraphs") if isinstance(part, dict) else None
    if not isinstance(paragraphs, list) or not any(isinstance(one, dict) and "qas" in one for one in paragraphs):
        return [part]
    return [
        {**question, "title": part.get("title")} if isinstance(question, dict) else question
        for paragraph in paragraphs
        if isinstance(paragraph, dict)
        for question in paragraph.get("qas") or []
    ]


def _csv_rows(path: Path) -> Iterator[NumberedRow]:
    csv.field_size_limit(_LONGEST_CSV_FIELD)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from enumerate(csv.DictReader(file), start=1)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a readable CSV in UTF-8: {error}") from error


_READERS: dict[str, Callable[[Path], Iterator[NumberedRow]]] = {
    ".parquet": _parquet_rows,
    ".jsonl": _jsonl_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
}


def is_readable(path: Path) -> bool:
    """Return whether the suffix is that of a format that is read here."""
    return path.suffix in _READERS


def file_rows(path: Path) -> Iterator[NumberedRow]:
    """Yield the rows of a file whose suffix is one of `_READERS`.

    Raises:
        ValueError, OSError: the file as a whole is bad.
    """
    yield from _READERS[path.suffix](path)


def _check_hub(hub_id: str) -> None:
    """Ask the Hub for the dataset, once: `datasets` itself tries for half a minute without a network.

    Raises:
        OSError: there is no network, or no such dataset that we may read.
    """
    import httpx
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    advice = "download a file of it and give its path as --from"
    try:
        huggingface_hub.HfApi().dataset_info(hub_id, timeout=_HUB_TIMEOUT_SECONDS)
    except OfflineModeIsEnabled:
        pass  # the cache may have it
    except HfHubHTTPError as error:
        status = error.response.status_code
        reasons = {401: "no such dataset, or not without a token (HF_TOKEN)", 403: "not open to you", 404: "not there"}
        reason = reasons.get(status, f"the Hub answered {status}")
        raise OSError(
            f"{hub_id} is neither a file here nor a dataset on {_endpoint()}: {reason}. Correct the name, accept the "
            f"dataset's conditions on its page, or {advice}"
        ) from error
    except (httpx.HTTPError, OSError) as error:
        raise OSError(
            f"{hub_id} is not a file here, and {_endpoint()} can't be reached ({error}): {advice}, or set "
            f"HF_HUB_OFFLINE=1 if the Hub's cache has the dataset"
        ) from error
    except HFValidationError as error:
        raise ValueError(f"{hub_id} is neither a file here nor a Hub id: {error}") from error


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co")


def _hub_rows(hub_id: str, config: str | None, split: str) -> Iterator[NumberedRow]:
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        dataset = datasets.load_dataset(hub_id, config, split=split)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        offline = " (HF_HUB_OFFLINE is set, so only the cache was searched)" if datasets.config.HF_HUB_OFFLINE else ""
        raise OSError(
            f"{hub_id}, configuration {config or 'default'}, split {split}: {error}{offline}. Change --from "
            f"OWNER/DATASET:CONFIG or --split, or download a file of the dataset and give its path as --from"
        ) from error
    number = 0
    # As Arrow, images stay bytes instead of being decoded.
    for batch in dataset.with_format("arrow").iter(batch_size=_ROWS_AT_A_TIME):
        for row in batch.to_pylist():
            number += 1
            yield number, row
