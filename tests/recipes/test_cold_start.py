"""The cold start's recipe in miniature: from the tiny world's traces to a model that transformers loads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "cold_start.sh"
PYTHON = {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}


def recipe(*overrides: str, **knobs: str) -> subprocess.CompletedProcess:
    environment = dict(os.environ) | PYTHON | knobs
    return subprocess.run(["bash", RECIPE, *overrides], env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize(
    ("knobs", "problem"),
    [
        ({"TRAIN_FILES": ""}, "TRAIN_FILES is not set; expected a parquet of 'arpo-verl data traces'"),
        ({"TRAIN_FILES": "nowhere.parquet"}, "nowhere.parquet: no such file"),
        ({"SYNTAX": "hermes"}, "SYNTAX=hermes; expected tags or native"),
        ({"PLATFORM": "tpu"}, "PLATFORM=tpu; expected gpu or cpu"),
        ({"NNODES": "2"}, "NNODES=2; expected MASTER_ADDR"),
    ],
)
def test_a_wrong_knob_is_refused_before_anything_starts(tmp_path, knobs, problem):
    result = recipe(**{"OUTPUT": str(tmp_path / "out"), "TRAIN_FILES": __file__} | knobs)
    assert result.returncode == 2
    assert problem in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        ({}, {"name: TagTraceDataset", "lr: 7.0e-06", "train_batch_size: 128", "weight_decay: 0.1", "total_epochs: 3"}),
        ({"SYNTAX": "native", "LORA_RANK": "32"}, {"name: NativeTraceDataset", "lora_rank: 32", "lora_alpha: 64"}),
        ({"PLATFORM": "cpu"}, {"device: cpu", "param_dtype: fp32", "attn_implementation: sdpa", "test_freq: -1"}),
        (
            {"VALIDATION_FILES": "[v.parquet]"},
            {"- v.parquet", "test_freq: after_each_epoch", "max_length: 4096"},
        ),
    ],
)
def test_verl_composes_the_recipes_command(tmp_path, knobs, expected):
    knobs = {"OUTPUT": str(tmp_path / "out"), "TRAIN_FILES": "[t.parquet]", "PYTHON": "echo"} | knobs
    printed = recipe("optim.clip_grad=0.5", **knobs).stdout.splitlines()[0]
    words = printed.partition("verl.trainer.sft_trainer ")[2].split()
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("sft_trainer_engine", overrides=[word for word in words if not word.startswith("hydra.")])
    lines = {line.strip() for line in OmegaConf.to_yaml(config).splitlines()}
    assert lines >= expected | {"clip_grad: 0.5"}


@pytest.mark.slow
@pytest.mark.engine
def test_two_ranks_learn_from_traces_and_the_export_is_a_model(tmp_path):
    tiny = [sys.executable, "-m", "arpo_verl.tiny_world", "--out", tmp_path, "--cold-start-steps", "0"]
    subprocess.run([*tiny, "--traces", "640"], check=True)
    command = (
        "import sys; from arpo_verl.data import traces_command as c; import argparse; p = argparse.ArgumentParser(); "
    )
    command += "c.add_arguments(p); sys.exit(c.run(p.parse_args()))"
    traces = tmp_path / "traces.parquet"
    subprocess.run([sys.executable, "-c", command, tmp_path / "traces.jsonl", "--out", traces], check=True)
    result = recipe(
        PLATFORM="cpu",
        MODEL_PATH=str(tmp_path / "model"),
        TRAIN_FILES=str(traces),
        VALIDATION_FILES=str(traces),
        OUTPUT=str(tmp_path / "out"),
        NGPUS_PER_NODE="2",
        TRAIN_BATCH_SIZE="16",
        TOTAL_EPOCHS="1",
        LR="4e-3",
        MAX_LENGTH="256",
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    logged = [json.loads(line)["data"] for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    losses = [data["train/loss"] for data in logged if "train/loss" in data]
    assert len(losses) == 40
    assert losses[0] > 5
    assert sum(losses[-5:]) / 5 < 2.5
    assert any("val/loss" in data for data in logged)
    export = [sys.executable, "-c", "from arpo_verl.command_line import main; main()", "export"]
    exported = subprocess.run(
        [*export, tmp_path / "out" / "checkpoints", tmp_path / "exported"], capture_output=True, text=True
    )
    assert exported.returncode == 0, exported.stderr[-3000:]
    assert "compared 39 weights with those of the shards" in exported.stdout
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "exported", dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "exported")
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "34*57?"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    # After 40 steps it writes a tag to begin with.
    first = tokenizer.decode(model.generate(**prompt, max_new_tokens=1, do_sample=False)[0, -1:])
    assert first in ("<answer>", "<python>", "<search>")
