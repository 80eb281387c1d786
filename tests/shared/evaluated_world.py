"""A tiny world to be evaluated, and `arpo-verl eval run` on it."""

import json
from pathlib import Path
from typing import Any

import pytest
from completion_server import ModelServer

from arpo_verl.command_line import main
from arpo_verl.evaluation.records import MEASURED_FIELDS
from arpo_verl.tiny_world.__main__ import write_data, write_model
from arpo_verl.tiny_world.world import make_world

LENGTHS = ("data.max_prompt_length=64", "data.max_response_length=128")


def make_evaluated_world(folder: Path, rows: int) -> Path:
    """Write data and an untrained model, of which the tokenizer alone is of use."""
    folder.mkdir(exist_ok=True)
    write_data(make_world(0, validation=rows), folder)
    write_model(folder, seed=0, steps=0)
    return folder


def words(world: Path, server: ModelServer, out: Path, *more: str) -> list[str]:
    """Return the words of a command."""
    return [
        "eval", "run", "--data", str(world / "validation.parquet"), "--out", str(out), "--base-url", server.url,
        "--model", "tiny", f"actor_rollout_ref.model.path={world / 'model'}", *LENGTHS, *more,
    ]  # fmt: skip


def evaluate(*command: str) -> Any:
    """Run a command in this process and return its exit code."""
    with pytest.raises(SystemExit) as end:
        main(command)
    return end.value.code


def untimed(path: Path) -> list[dict[str, Any]]:
    """Return the lines without what measures time."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(one) for key, one in value.items() if key not in MEASURED_FIELDS}
        return [strip(one) for one in value] if isinstance(value, list) else value

    return [strip(json.loads(line)) for line in path.read_text().splitlines()]
