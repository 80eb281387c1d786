"""Files of stored rows: a checkpoint's store, and what peers show each other. NumPy arrays in a zip, without pickles.

The zip's checksums find what is damaged; a file is written beside its place and moved there, so that a reader finds it
whole or not at all.
"""

import json
import os
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from arpo_verl.replay.store.row import StoredRow
from arpo_verl.replay.store.source import State

VERSION = 1
LARGEST_BYTES = 8 * 2**30
"""Above it a file is not read: it is no store, or of more rows than memory should hold."""
TOKEN_COLUMNS: dict[str, Any] = {
    "response_ids": np.int32, "mask": np.bool_, "segments": np.int32, "scores": np.float32,
}  # fmt: skip
OPTIONAL_COLUMNS: dict[str, Any] = {"rollout_log_probs": np.float32, "old_log_probs": np.float32}
HEADER = "header"


class ReplayFileError(ValueError):
    """A file is no file of rows, is damaged, or is of another run's tokenizer."""


def write_rows(path: Path, state: State, tokenizer: str) -> None:
    """Write rows as a whole or not at all.

    Args:
        path: the file; its folder has to be there.
        state: rows and numbers.
        tokenizer: digest of the tokenizer that the token ids are of.

    Raises:
        OSError: the file can't be written.
    """
    arrays = {HEADER: _header(state, tokenizer), **_arrays(state.rows)}
    number, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        os.fchmod(number, 0o644)  # others of the directory read it
        with os.fdopen(number, "wb") as out:
            np.savez(out, **arrays)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _header(state: State, tokenizer: str) -> Any:
    rows = [
        {
            "task": row.task,
            "step": row.step,
            "reward": row.reward,
            "turns": row.turns,
            "origin": row.origin,
            "turn_rewards": row.turn_rewards,
            "prompt": len(row.prompt_ids),
            "response": len(row.response_ids),
            **{name: getattr(row, name) is not None for name in OPTIONAL_COLUMNS},
        }
        for row in state.rows
    ]
    header = {"version": VERSION, "tokenizer": tokenizer, "numbers": state.numbers, "rows": rows}
    return np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)


def _arrays(rows: Sequence[StoredRow]) -> dict[str, Any]:
    """Return each column of all rows, one row after the other."""
    kinds = {"prompt_ids": np.int32, **TOKEN_COLUMNS, **OPTIONAL_COLUMNS}
    arrays = {}
    for name, kind in kinds.items():
        columns = [column.astype(kind) for row in rows if (column := getattr(row, name)) is not None]
        arrays[name] = np.concatenate([np.zeros(0, dtype=kind), *columns])
    return arrays


def read_rows(path: Path, tokenizer: str | None, origin: str | None = None, step: int | None = None) -> State:
    """Return what `write_rows` has written.

    Args:
        path: the file.
        tokenizer: digest of this run's; None takes a file of any.
        origin, step: what every row is to say of itself; None keeps what the file says.

    Raises:
        ReplayFileError: see there. The message says what to do for a file of one's own.
    """
    try:
        header, arrays = _read(path)
        if header["version"] != VERSION:
            raise ReplayFileError(f"{path} is of version {header['version']}; expected {VERSION}: remove it")
        if tokenizer is not None and header["tokenizer"] != tokenizer:
            raise ReplayFileError(
                f"{path} holds rows of another tokenizer than this run's, whose token ids mean something else; "
                f"expected the same: train with the tokenizer that it was written with, or remove the file to begin "
                f"with an empty store"
            )
        rows = list(_rows(header, arrays))
        if origin is not None:
            rows = [replace(row, origin=origin, step=row.step if step is None else step) for row in rows]
        return State(rows, dict(header["numbers"]))
    except ReplayFileError:
        raise
    # What a damaged or foreign file makes zip, NumPy, JSON and the reading below raise.
    except Exception as error:
        raise ReplayFileError(
            f"{path} can't be read as stored rows ({type(error).__name__}: {error}); expected what a finished step has "
            f"written: go on from another step, or remove the file to begin with an empty store"
        ) from error


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    # Opening a named pipe would wait for ever.
    if not stat.S_ISREG(path.stat().st_mode):
        raise ReplayFileError(f"{path} is no regular file: remove it")
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > LARGEST_BYTES:
        raise ReplayFileError(f"{path} holds {size} bytes; expected at most {LARGEST_BYTES}: remove it")
    with np.load(path, allow_pickle=False) as loaded:
        arrays = {name: loaded[name] for name in loaded.files}
    header = json.loads(arrays.pop(HEADER).tobytes())
    return header, arrays


def _rows(header: dict[str, Any], arrays: dict[str, Any]) -> Iterator[StoredRow]:
    """Yield the rows, of which each takes its part of every array, in order; nothing may be left."""
    kinds = {"prompt_ids": np.int32, **TOKEN_COLUMNS, **OPTIONAL_COLUMNS}
    at = dict.fromkeys(kinds, 0)

    def take(name: str, length: int) -> Any:
        part = arrays[name][at[name] : at[name] + length]
        if part.shape != (length,) or part.dtype != kinds[name]:
            raise ValueError(f"{name} of the shape {part.shape} and type {part.dtype}; expected {length} values")
        at[name] += length
        return part.copy()

    for one in header["rows"]:
        prompt, length = int(one["prompt"]), int(one["response"])
        if min(prompt, length) < 0:
            raise ValueError(f"a row of {prompt} and {length} tokens")
        turn_rewards = one["turn_rewards"]
        columns: dict[str, Any] = {name: take(name, length) for name in TOKEN_COLUMNS}
        columns |= {name: take(name, length) if one[name] else None for name in OPTIONAL_COLUMNS}
        yield StoredRow(
            task=str(one["task"]),
            step=int(one["step"]),
            reward=float(one["reward"]),
            prompt_ids=take("prompt_ids", prompt),
            turn_rewards=None if turn_rewards is None else tuple(map(float, turn_rewards)),
            turns=int(one["turns"]),
            origin=str(one["origin"]),
            **columns,
        )
    left = [name for name, end in at.items() if end != len(arrays[name])]
    if left:
        raise ValueError(f"{left} are longer than the rows that the header names")
