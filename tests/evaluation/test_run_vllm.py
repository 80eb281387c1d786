"""`arpo-verl eval run --start-vllm` with a real vLLM on CPU, against verl's own validation of the same model."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from evaluated_world import LENGTHS, make_evaluated_world
from processes import assert_gone, descendants
from runs import train

from arpo_verl.evaluation.records import read_run
from arpo_verl.reward import compute_score

pytestmark = [pytest.mark.slow, pytest.mark.engine]

ROWS = 24


def validate(world: Path, folder: Path) -> dict[str, dict]:
    """Run verl's validation, greedy, and return its rows by question."""
    train(
        world,
        folder,
        "algorithm.adv_estimator=arpo",
        "trainer.val_only=True",
        "trainer.val_before_train=True",
        "data.val_max_samples=-1",
        f"trainer.validation_data_dir={folder / 'validation'}",
    )
    rows = [json.loads(line) for line in (folder / "validation" / "0.jsonl").open()]
    return {row["input"].strip(): row for row in rows}


def test_a_greedy_evaluation_is_verls_greedy_validation_token_for_token(world, tmp_path):
    model = world / "model"
    world = make_evaluated_world(tmp_path / "world", ROWS)
    shutil.copytree(model, world / "model", dirs_exist_ok=True)
    expected = validate(world, tmp_path / "verl")
    before, out = descendants(), tmp_path / "run.jsonl"
    script = "from arpo_verl.command_line import main; main()"
    command = [sys.executable, "-c", script, "eval", "run", "--start-vllm", "--model", str(world / "model"), "--out"]
    command += [str(out), "--data", str(world / "validation.parquet"), *LENGTHS, "platform=cpu"]
    variables = {"ARPO_SEARCH_CORPUS": str(world / "corpus.jsonl"), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=os.environ | variables, check=True)
    assert_gone(*(descendants() - before))

    run = read_run(out)
    assert (run.header.base_url, run.header.token_ids, run.header.sampling["temperature"]) == (None, "server", 0)
    assert len(run.samples) == len(expected) == ROWS
    for sample in run.samples:
        row = expected[sample.question]
        assert sample.output == row["output"]
        assert compute_score(sample.data_source, sample.output, sample.truths)["acc"] == row["acc"]
    # The comparison is worth something: tools were called, several times in a response, and answers came of it.
    assert max(len(sample.calls) for sample in run.samples) > 1
    assert {sample.stop_reason for sample in run.samples} >= {"completed"}
