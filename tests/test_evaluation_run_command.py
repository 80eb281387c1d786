"""`arpo-verl eval run` from the command line to the file, with real tools and a real HTTP server."""

import json
from pathlib import Path

import pytest
from completion_server import ModelServer, serving

from arpo_verl.command_line import main
from arpo_verl.evaluation.records import MEASURED_FIELDS, Run, read_run
from arpo_verl.tiny_world.__main__ import write_data, write_model
from arpo_verl.tiny_world.world import make_world

ROWS = 12
LENGTHS = ("data.max_prompt_length=64", "data.max_response_length=128")


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated-world")
    write_data(make_world(0, validation=ROWS), folder)
    write_model(folder, seed=0, steps=0)
    return folder


@pytest.fixture(autouse=True)
def search_corpus(world, monkeypatch):
    monkeypatch.setenv("ARPO_SEARCH_CORPUS", str(world / "corpus.jsonl"))


def words(world: Path, server: ModelServer, out: Path, *more: str) -> list[str]:
    return [
        "eval", "run", "--data", str(world / "validation.parquet"), "--out", str(out), "--base-url", server.url,
        "--model", "tiny", f"actor_rollout_ref.model.path={world / 'model'}", *LENGTHS, *more,
    ]  # fmt: skip


def evaluate(*command: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(command)
    return end.value.code


def untimed(path: Path) -> list[dict]:
    """Return the lines without what measures time."""

    def strip(value):
        if isinstance(value, dict):
            return {key: strip(one) for key, one in value.items() if key not in MEASURED_FIELDS}
        return [strip(one) for one in value] if isinstance(value, list) else value

    return [strip(json.loads(line)) for line in path.read_text().splitlines()]


def test_every_prompt_is_asked_with_the_tools_of_training(world, tmp_path):
    out = tmp_path / "run.jsonl"
    with serving() as server:
        assert evaluate(*words(world, server, out)) == 0
    run = read_run(out)
    print(out.read_text())
    assert len(run.samples) == ROWS
