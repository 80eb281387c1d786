"""A run on CPU has room for its model's largest weight on the way to vLLM, whatever bucket is set."""

import json
import logging

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from arpo_verl.doctor import machine
from arpo_verl.doctor.finding import DoctorInput, DoctorOptions
from arpo_verl.preflight import machine_check
from arpo_verl.preflight.checks import check_before_ray
from arpo_verl.preflight.compose import compose_config
from arpo_verl.preflight.weight_bucket import BUCKET, largest_weight, raise_weight_bucket

EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def model(tmp_path):
    """A folder with two weight files; the embedding has 600 000 numbers, 2.29 MB in fp32 and 1.14 MB in bf16."""
    save_file({EMBEDDING: torch.zeros(6000, 100, dtype=torch.bfloat16)}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"norm": torch.zeros(7), "head": torch.zeros(599, 1000)}, tmp_path / "model-00002-of-00002.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 6000, "hidden_size": 100}))
    return tmp_path


def configuration(model, *overrides: str):
    settings = ["platform=cpu", f"actor_rollout_ref.model.path={model}", *overrides]
    return compose_config("pkg://arpo_verl.config", "arpo_trainer", settings)


@pytest.mark.parametrize(
    ("dtype", "given", "expected"),
    [("fp32", 1, 3), ("fp32", 2, 3), ("fp32", 3, 3), ("bf16", 1, 2), ("bf16", 64, 64)],
)
def test_the_bucket_is_raised_to_the_largest_weight_as_the_actor_holds_it_and_never_lowered(
    model, dtype, given, expected
):
    config = configuration(model, f"{BUCKET}={given}", f"actor_rollout_ref.actor.fsdp_config.model_dtype={dtype}")
    raised = raise_weight_bucket(config)
    assert OmegaConf.select(config, BUCKET) == expected
    assert raised == (
        f"{BUCKET} raised from {given} to {expected} MB, the size of the model's largest weight, {EMBEDDING}"
        if expected > given
        else None
    )


def test_sizes_are_those_of_the_weights_in_their_files(model):
    assert largest_weight(configuration(model)) == (EMBEDDING, 6000 * 100 * 4)


def test_other_weight_files_are_taken_to_have_the_embedding_as_the_largest(model):
    for file in model.glob("*.safetensors"):
        file.unlink()
    assert largest_weight(configuration(model)) == ("the embedding", 6000 * 100 * 4)
    (model / "config.json").write_text(json.dumps({"text_config": {"vocab_size": 10, "hidden_size": 3}}))
    assert largest_weight(configuration(model)) == ("the embedding", 10 * 3 * 4)


def test_nothing_is_done_for_a_gpu_for_a_model_that_is_not_here_and_for_damaged_files(model):
    on_gpu = configuration(model, f"{BUCKET}=1", "trainer.device=cuda")
    elsewhere = configuration("some/model", f"{BUCKET}=1")
    (model / "model-00002-of-00002.safetensors").write_bytes(b"half")
    damaged = configuration(model, f"{BUCKET}=1")
    for config in (on_gpu, elsewhere, damaged):
        assert raise_weight_bucket(config) is None
        assert OmegaConf.select(config, BUCKET) == 1


def test_verls_command_raises_it_before_ray_for_any_run_and_logs_it(model, caplog):
    verls_own = ["algorithm.adv_estimator=grpo", "actor_rollout_ref.rollout.agent.default_agent_loop=single_turn_agent"]
    config = configuration(model, f"{BUCKET}=1", *verls_own)
    with caplog.at_level(logging.WARNING):
        check_before_ray(config)
    assert OmegaConf.select(config, BUCKET) == 3
    assert f"{BUCKET} raised from 1 to 3 MB" in caplog.text


def test_the_doctor_says_that_a_run_will_raise_it_and_counts_shared_memory_with_it(model, tmp_path, monkeypatch):
    monkeypatch.setattr(machine_check, "SHARED_MEMORY", tmp_path)
    (finding,) = machine.check_shared_memory(DoctorInput(configuration(model, f"{BUCKET}=1"), DoctorOptions()))
    assert finding.text.endswith(f"{BUCKET} raised from 1 to 3 MB, the size of the model's largest weight, {EMBEDDING}")
    with pytest.raises(RuntimeError, match="expected 6 MB for the weight buckets of 2 replicas"):
        free = machine_check.shutil.disk_usage(tmp_path)._replace(free=5 << 20)
        monkeypatch.setattr(machine_check.shutil, "disk_usage", lambda folder: free)
        config = configuration(model, f"{BUCKET}=1", "trainer.n_gpus_per_node=2")
        machine.check_shared_memory(DoctorInput(config, DoctorOptions()))
