"""A measurement that grows its trees itself: verl's trainer, Ray and vLLM, without an update."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from quickstart import TrainingRun

pytestmark = [pytest.mark.slow, pytest.mark.engine, pytest.mark.nightly]


def test_trees_of_a_model_are_grown_and_measured_and_nothing_is_trained(world, tmp_path):
    numbers, kept = tmp_path / "numbers.json", tmp_path / "kept"
    overrides = {
        "platform": "cpu",
        "actor_rollout_ref.model.path": world / "model",
        "data.train_files": world / "train.parquet",
        "data.val_files": world / "validation.parquet",
        "data.train_batch_size": 16,
        "data.max_prompt_length": 64,
        "data.max_response_length": 128,
        "actor_rollout_ref.rollout.n": 8,
        "actor_rollout_ref.actor.ppo_mini_batch_size": 8,
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 8,
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": 8,
    }
    words = [f"{key}={value}" for key, value in overrides.items()]
    options = ["--prompts", "48", "--json", str(numbers), "--keep", str(kept)]
    environment = TrainingRun("", 0, 0, tmp_path, []).environment() | {
        "ARPO_SEARCH_CORPUS": str(world / "corpus.jsonl")
    }
    command = [str(Path(sys.executable).with_name("arpo-verl")), "measure", *words, *options]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "48 prompts with up to 8 leaves" in done.stdout
    found = json.loads(numbers.read_text())
    assert (found["prompts"], found["leaves"]) == (48, 8)
    log = (kept / "run.log").read_text(errors="replace")
    assert "update_actor" not in log
