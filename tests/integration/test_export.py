"""Exported models compute what the trained ones did; half a checkpoint or a wrong path is an error at once."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from sharded_checkpoints import IDS
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from arpo_verl.export import command as export
from arpo_verl.export.check import compare
from arpo_verl.export.checkpoint_files import find_checkpoint
from arpo_verl.export.merging import ExportOptions
from arpo_verl.tiny_world.model import CHAT_TEMPLATE

ACTOR = Path("global_step_3") / "actor"
SHARD = "model_world_size_2_rank_1.pt"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """One run's folder for each of `sharded_checkpoints.CHECKPOINTS`."""
    folder = tmp_path_factory.mktemp("checkpoints")
    script = Path(__file__).parent / "sharded_checkpoints.py"
    environment = dict(os.environ, VERL_PLATFORM="cpu", OMP_NUM_THREADS="1")
    result = subprocess.run([sys.executable, script, folder], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-5000:]
    return folder


def run(*words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    export.add_arguments(parser)
    return export.run(parser.parse_args(list(map(str, words))))


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def load(folder: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto")


@pytest.mark.parametrize("name", ["one", "two", "uneven", "replicated"])
def test_a_model_of_any_world_size_computes_what_it_did_before_it_was_sharded(made, tmp_path, capsys, name):
    assert run(made / name, tmp_path / "out") == 0
    model = load(tmp_path / "out")
    assert model.dtype == torch.float32
    torch.testing.assert_close(logits(model), torch.load(made / f"{name}.logits.pt"), rtol=0, atol=1e-5)
    assert not torch.allclose(logits(model), logits(load(made / "base")), atol=1e-2)
    said = capsys.readouterr().out
    assert "stored as float32, written as float32" in said
    assert "compared 39 weights" in said
    assert [folder.name for folder in tmp_path.iterdir()] == ["out"]


def test_the_stored_type_is_kept_and_another_one_is_taken_on_demand(made, tmp_path):
    assert run(made / "bfloat16", tmp_path / "kept") == 0
    kept = load(tmp_path / "kept")
    assert kept.dtype == torch.bfloat16
    torch.testing.assert_close(logits(kept), torch.load(made / "bfloat16.logits.pt"), rtol=0, atol=0.05)
    assert run(made / "bfloat16", tmp_path / "wide", "--dtype", "float32") == 0
    wide = load(tmp_path / "wide")
    assert wide.dtype == torch.float32
    assert all(torch.equal(weight, kept.state_dict()[name].float()) for name, weight in wide.state_dict().items())
    assert run(made / "two", tmp_path / "half", "--dtype", "float16") == 0
    assert load(tmp_path / "half").dtype == torch.float16


def test_a_lora_is_merged_into_its_base(made, tmp_path):
    assert run(made / "lora", tmp_path / "out") == 0
    assert not list((tmp_path / "out").glob("*adapter*"))
    model = load(tmp_path / "out")
    torch.testing.assert_close(logits(model), torch.load(made / "lora.logits.pt"), rtol=0, atol=1e-4)
    assert not torch.allclose(logits(model), logits(load(made / "base")), atol=1e-2)


def test_a_lora_becomes_an_adapter_that_peft_loads(made, tmp_path):
    out = tmp_path / "out"
    assert run(made / "lora", out, "--adapter", "--base-model", made / "base") == 0
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 12)
    assert config["base_model_name_or_path"] == str(made / "base")
    model = peft.AutoPeftModelForCausalLM.from_pretrained(out)
    torch.testing.assert_close(logits(model), torch.load(made / "lora.logits.pt"), rtol=0, atol=1e-4)
    assert AutoTokenizer.from_pretrained(out).chat_template == CHAT_TEMPLATE
    assert not (out / "config.json").exists()


@pytest.mark.parametrize("words", [[], ["--adapter"]])
def test_a_checkpoint_of_the_lora_alone_takes_its_base_by_name(made, tmp_path, capsys, words):
    assert run(made / "lora_alone", tmp_path / "out", *words) == 1
    assert "has the LoRA alone (save_lora_only); expected its base as --base-model" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert run(made / "lora_alone", tmp_path / "out", "--base-model", made / "base", *words) == 0
    base = load(made / "base")
    model = peft.PeftModel.from_pretrained(base, tmp_path / "out") if words else load(tmp_path / "out")
    torch.testing.assert_close(logits(model), torch.load(made / "lora_alone.logits.pt"), rtol=0, atol=1e-4)


def test_tokenizer_chat_template_and_generation_config_come_along(made, tmp_path):
    huggingface = copied(made, tmp_path) / ACTOR / "huggingface"
    config = GenerationConfig(temperature=0.7, do_sample=True, eos_token_id=[396, 397])
    config.save_pretrained(huggingface)
    assert run(tmp_path / "run", tmp_path / "out") == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template == CHAT_TEMPLATE
    text = "<search>Zovi</search> <result>\n48\n</result>"
    assert tokenizer.encode(text) == AutoTokenizer.from_pretrained(huggingface).encode(text)
    exported = GenerationConfig.from_pretrained(tmp_path / "out")
    assert (exported.temperature, exported.eos_token_id) == (0.7, [396, 397])


@pytest.mark.parametrize("path", ["two", "two/global_step_3", "two/global_step_3/actor"])
def test_a_checkpoint_is_found_by_its_run_its_step_and_its_actor(made, path):
    assert find_checkpoint(made / path).folder == made / "two" / ACTOR


def test_a_runs_newest_complete_step_is_taken(made, tmp_path):
    folder = copied(made, tmp_path)
    shutil.copytree(folder / "global_step_3", folder / "global_step_4")  # a save that was interrupted before the end
    assert find_checkpoint(folder).folder == folder / ACTOR
    (folder / "latest_checkpointed_iteration.txt").write_text("4")
    assert find_checkpoint(folder).folder == folder / "global_step_4" / "actor"


def test_the_sft_trainers_layout_has_no_actor(made, tmp_path):
    shutil.copytree(made / "two" / ACTOR, tmp_path / "global_step_9")
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("9")
    assert find_checkpoint(tmp_path).folder == tmp_path / "global_step_9"


def copied(made: Path, folder: Path, name: str = "two") -> Path:
    return shutil.copytree(made / name, folder / "run")


def truncate(actor: Path) -> None:
    content = (actor / SHARD).read_bytes()
    (actor / SHARD).write_bytes(content[: len(content) // 2])


def add_rank_of_another_run(actor: Path) -> None:
    shutil.copy(actor / SHARD, actor / "model_world_size_4_rank_3.pt")


def claim_four_ranks(actor: Path) -> None:
    (actor / "fsdp_config.json").write_text('{"FSDP_version": 2, "world_size": 4}')


def make_critic(actor: Path) -> None:
    path = actor / "huggingface" / "config.json"
    config = json.loads(path.read_text()) | {"architectures": ["Qwen2ForTokenClassification"]}
    path.write_text(json.dumps(config))


HALVES = {
    "a missing shard": (lambda actor: (actor / SHARD).unlink(), f"lacks {SHARD} of 2 shards"),
    "a truncated shard": (truncate, f"{SHARD} .* is truncated"),
    "an empty shard": (lambda actor: (actor / SHARD).write_bytes(b""), r"\(0 bytes\) is truncated"),
    "two world sizes": (add_rank_of_another_run, "says 2 ranks and the shards are model_world_size_2_.*world_size_4_"),
    "a wrong world size": (claim_four_ranks, r"says 4 ranks and the shards are model_world_size_2_\*"),
    "no fsdp_config": (lambda actor: (actor / "fsdp_config.json").unlink(), "fsdp_config.json is missing though"),
    "bad fsdp_config": (
        lambda actor: (actor / "fsdp_config.json").write_text("{"),
        "fsdp_config.json is not valid JSON",
    ),
    "no config": (lambda actor: (actor / "huggingface" / "config.json").unlink(), "config.json is missing"),
    "no tokenizer": (
        lambda actor: [file.unlink() for file in (actor / "huggingface").glob("tokenizer*")],
        "has no tokenizer",
    ),
    "a critic": (make_critic, "is a critic's"),
}


@pytest.mark.parametrize(("harm", "problem"), HALVES.values(), ids=HALVES)
def test_half_a_checkpoint_is_an_error_at_once(made, tmp_path, harm, problem):
    harm(copied(made, tmp_path) / ACTOR)
    start = time.monotonic()
    with pytest.raises(ValueError, match=problem):
        find_checkpoint(tmp_path / "run")
    assert time.monotonic() - start < 1


WRONG_PATHS = {
    "nowhere": ("nowhere", "does not exist; expected the folder of a checkpoint"),
    "a file": ("run/latest_checkpointed_iteration.txt", "is a file"),
    "a model": ("../base", "is in Hugging Face format already"),
    "no complete step": ("steps", "has no latest_checkpointed_iteration.txt, .* though global_step_3"),
    "a step that is gone": ("gone", "says '7' and .*global_step_7 does not exist"),
    "a critic alone": ("critic", "has a critic and no actor"),
    "megatron": ("megatron", "seems to be Megatron's"),
    "nothing": ("nothing", r"has no shards \(model_world_size_W_rank_R.pt\); expected"),
    "megatron's model": ("megatron-model", "seems to be Megatron's"),
    "megatron's hub format": ("megatron-hf", "seems to be Megatron's"),
    "a run beside its export": (
        "finished",
        "has no shards .* but the folder of a run, .*finished/checkpoints: name that",
    ),
    "an export in a folder": (
        "exported",
        "has no shards .* but .*exported/model, which is in Hugging Face format already",
    ),
    "a folder called model": ("named", r"has no shards \(model_world_size_W_rank_R.pt\); expected"),
    "an adapter": ("adapter", "is in Hugging Face format already"),
}


@pytest.mark.parametrize(("path", "problem"), WRONG_PATHS.values(), ids=WRONG_PATHS)
def test_a_wrong_path_is_named_with_what_is_there(made, tmp_path, path, problem):
    copied(made, tmp_path / "x")
    folder = tmp_path / "x"
    for name in ("steps/global_step_3", "gone", "critic/critic", "megatron/dist_ckpt", "nothing"):
        (folder / name).mkdir(parents=True)
    for name in (
        "megatron-model/model/dist_ckpt",
        "megatron-hf/model/huggingface",
        "named/model",
        "exported",
        "adapter",
    ):
        (folder / name).mkdir(parents=True)
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    shutil.copytree(made / "base", folder / "exported" / "model")
    shutil.copytree(made / "two", folder / "finished" / "checkpoints")
    shutil.copytree(made / "base", folder / "finished" / "model")
    (folder / "gone" / "latest_checkpointed_iteration.txt").write_text("7")
    shutil.copytree(made / "base", tmp_path / "base")
    with pytest.raises(ValueError, match=problem):
        find_checkpoint(folder / path)


@pytest.mark.parametrize("has_earlier", [False, True])
def test_what_fails_leaves_nothing_and_keeps_what_there_was(made, tmp_path, capsys, has_earlier):
    actor = copied(made, tmp_path) / ACTOR
    out = tmp_path / "outputs" / "out"
    if has_earlier:
        assert run(tmp_path / "run", out) == 0
    before = {file.name: file.read_bytes() for file in out.glob("*")}
    # An archive that is whole and says nothing: found when it is loaded, not before.
    torch.save({"unrelated": torch.zeros(1)}, actor / SHARD)
    assert run(tmp_path / "run", out, "--overwrite") == 1
    assert "rank 1 has other weights than rank 0" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in out.glob("*")} == before
    assert [file.name for file in out.parent.iterdir()] == (["out"] if has_earlier else [])


class RunsCode:
    """What a strange checkpoint could hold: loading it makes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self):
        return Path.touch, (self._path,)


STRANGE = {
    "code": lambda weights, mark: {**weights, "code": RunsCode(mark)},
    "code alone": lambda weights, mark: RunsCode(mark),
    "a whole model": lambda weights, mark: torch.nn.Linear(2, 2),
    "an array": lambda weights, mark: {name: weight.to_local().numpy() for name, weight in weights.items()},
}


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("kind", STRANGE)
def test_no_code_of_a_checkpoint_runs(made, tmp_path, capsys, kind, rank):
    actor = copied(made, tmp_path) / ACTOR
    shard = actor / f"model_world_size_2_rank_{rank}.pt"
    torch.save(STRANGE[kind](torch.load(shard), tmp_path / "mark"), shard)
    assert run(tmp_path / "run", tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert f"{shard} holds more than weights (" in said and "take the checkpoint from where it was made" in said
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("content", [[1, 2], {"step": 3}, {"model": {"weight": torch.zeros(2)}}])
def test_a_shard_that_holds_no_table_of_weights_is_refused(made, tmp_path, capsys, content):
    actor = copied(made, tmp_path) / ACTOR
    torch.save(content, actor / SHARD)
    assert run(tmp_path / "run", tmp_path / "out") == 1
    assert f"{SHARD} is no table of weights by their names" in capsys.readouterr().err


def test_nothing_is_overwritten_unless_asked_for_and_nothing_but_a_model(made, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    assert run(made / "two", out) == 1
    assert "exists: choose another one, or replace it with --overwrite" in capsys.readouterr().err
    assert run(made / "two", out, "--overwrite") == 1
    assert "is no exported model" in capsys.readouterr().err
    assert (out / "thesis.txt").read_text() == "mine"
    (out / "thesis.txt").unlink()
    assert run(made / "one", out) == 0
    assert run(made / "two", out, "--overwrite") == 0
    torch.testing.assert_close(logits(load(out)), torch.load(made / "two.logits.pt"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("out", ["run", "run/global_step_3/actor/huggingface", "run/global_step_3/actor", "."])
def test_a_checkpoint_is_never_written_over(made, tmp_path, capsys, out):
    copied(made, tmp_path)
    assert run(tmp_path / "run", tmp_path / out, "--overwrite") == 1
    assert "are one in the other" in capsys.readouterr().err
    assert find_checkpoint(tmp_path / "run")


def test_an_adapter_is_asked_of_a_checkpoint_that_has_none(made, tmp_path, capsys):
    assert run(made / "two", tmp_path / "out", "--adapter") == 1
    assert "has no LoRA; expected one with --adapter" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, '{"r": 4}', '{"r": 4, "lora_alpha": 0}'])
def test_a_lora_whose_scale_is_unknown_is_not_guessed(made, tmp_path, capsys, content):
    path = copied(made, tmp_path, "lora") / ACTOR / "lora_train_meta.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    for words in ([], ["--adapter"]):
        assert run(tmp_path / "run", tmp_path / "out", *words) == 1
        assert "expected the model.lora_alpha of the training" in capsys.readouterr().err


def test_a_configuration_of_another_model_is_noticed(made, tmp_path, capsys):
    path = copied(made, tmp_path) / ACTOR / "huggingface" / "config.json"
    fewer = {"num_hidden_layers": 2, "layer_types": ["full_attention"] * 2}
    for change, problem in ((fewer, "model.layers.2"), ({"num_hidden_layers": 2}, "config.json is not valid")):
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        assert run(tmp_path / "run", tmp_path / "out") == 1
        assert problem in capsys.readouterr().err
        path.write_text((made / "two" / ACTOR / "huggingface" / "config.json").read_text())
    assert [folder.name for folder in tmp_path.iterdir()] == ["run"]


def change_one_number(out: Path) -> None:
    weights = load_file(out / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] += 1e-4
    save_file(weights, out / "model.safetensors", {"format": "pt"})


def leave_the_lora_out(out: Path) -> None:
    shutil.copy(out.parent / "base.safetensors", out / "model.safetensors")


def change_the_base(out: Path) -> None:
    path = out / "config.json"
    config = json.loads(path.read_text())
    config["rope_parameters"]["rope_theta"] *= 100
    path.write_text(json.dumps(config))


def change_the_template(out: Path) -> None:
    (out / "chat_template.jinja").write_text("{{ messages }}")


FAULTS = {
    "one number": ("two", change_one_number, "up_proj.weight is another one than in the checkpoint"),
    "the base without its LoRA": ("lora", leave_the_lora_out, "is another one than in the checkpoint"),
    "another configuration": ("two", change_the_base, "log-probabilities of 2x32 tokens differ"),
    "another template": ("two", change_the_template, "tokenizer or its chat template is not the checkpoint's"),
}


@pytest.mark.parametrize(("name", "harm", "problem"), FAULTS.values(), ids=FAULTS)
def test_the_comparison_finds_an_export_that_is_not_the_trained_model(made, tmp_path, name, harm, problem):
    assert run(made / name, tmp_path / "out") == 0
    shutil.copy(made / "base" / "model.safetensors", tmp_path / "base.safetensors")
    checkpoint, options = find_checkpoint(made / name), ExportOptions(None, False, None, False)
    assert len(list(compare(checkpoint, tmp_path / "out", options, AutoModelForCausalLM))) == 2
    harm(tmp_path / "out")
    with pytest.raises(RuntimeError, match=problem):
        list(compare(checkpoint, tmp_path / "out", options, AutoModelForCausalLM))
