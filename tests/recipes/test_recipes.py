"""The recipes' own scripts: composed, linted, and run end to end in miniature."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pandas
import pytest
import verl  # noqa: F401  registers the resolver of the preset
from hydra import compose, initialize_config_module
from installed import say_installed
from omegaconf import DictConfig, OmegaConf
from quickstart import RUN_MARK, stop
from ray.cluster_utils import Cluster
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import validate_config

from arpo_verl.record import read_step

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
SCRIPTS = sorted(RECIPES.glob("run_*.sh"))
RECORDER = '#!/usr/bin/env bash\nprintf "%s\\0" "$@" > "$RECORD"\n'
VERL = ["-m", "verl.trainer.main_ppo", "--config-path", "pkg://arpo_verl.config", "--config-name", "arpo_trainer"]


def environment(**settings: str) -> dict[str, str]:
    """This process's environment without anything that a recipe reads, and settings."""
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TMPDIR") if key in os.environ}
    return kept | settings


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, str]:
    """What a recipe has no default for."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "corpus.jsonl").write_text(json.dumps({"title": "Zorvia", "contents": "48"}) + "\n")
    row = {
        "data_source": "test",
        "prompt": [{"role": "user", "content": "1+1?"}],
        "reward_model": {"style": "rule", "ground_truth": "2"},
    }
    files = folder / "data.parquet"
    pandas.DataFrame([row]).to_parquet(files)
    return {
        "TRAIN_FILES": str(files),
        "VALIDATION_FILES": str(files),
        "ARPO_SEARCH_CORPUS": str(folder / "corpus.jsonl"),
        "SERPER_API_KEY": "none",
        "RAY_ADDRESS": "10.0.0.1:6379",
    }


def overrides_of(script: Path, folder: Path, settings: dict[str, str], *words: str) -> list[str]:
    """Run a recipe with a recorder in place of Python, and return the overrides that verl would have got."""
    recorder, record = folder / "recorder", folder / "record"
    recorder.write_text(RECORDER)
    recorder.chmod(0o755)
    variables = environment(PYTHON=str(recorder), RECORD=str(record), OUTPUT=str(folder / "output")) | settings
    subprocess.run(["bash", str(script), *words], check=True, env=variables)
    arguments = record.read_text().split("\0")[:-1]
    assert arguments[: len(VERL)] == VERL
    return arguments[len(VERL) :]


def configuration(script: Path, folder: Path, settings: dict[str, str], *words: str) -> DictConfig:
    with initialize_config_module("arpo_verl.config", version_base=None):
        return compose("arpo_trainer", overrides=overrides_of(script, folder, settings, *words))


def values(config: DictConfig, keys: dict[str, Any]) -> dict[str, Any]:
    return {key: OmegaConf.select(config, key) for key in keys}


PAPER = {
    "data.train_batch_size": 128,
    "actor_rollout_ref.actor.ppo_mini_batch_size": 16,
    "actor_rollout_ref.rollout.n": 16,
    "arpo.initial_rollouts": 8,
    "arpo.branch_factor": 2,
    "arpo.base_probability": 0.5,
    "arpo.entropy_weight": 0.2,
    "arpo.branch_threshold": 0.5,
    "arpo.rule": "bernoulli",
    "actor_rollout_ref.actor.optim.lr": 1e-6,
    "actor_rollout_ref.actor.clip_ratio_low": 0.2,
    "actor_rollout_ref.actor.clip_ratio_high": 0.2,
    "actor_rollout_ref.actor.clip_ratio_c": 3.0,
    "actor_rollout_ref.actor.loss_agg_mode": "token-mean",
    "actor_rollout_ref.actor.use_kl_loss": False,
    "algorithm.use_kl_in_reward": False,
    "actor_rollout_ref.actor.entropy_coeff": 0,
    "actor_rollout_ref.rollout.temperature": 1.0,
    "actor_rollout_ref.rollout.top_p": 1,
    "reward.custom_reward_function.path": "pkg://arpo_verl.reward",
}
REASONING = {
    "data.max_prompt_length": 1536,
    "data.max_response_length": 4096,
    "arpo.max_tool_calls": 3,
    "trainer.total_epochs": 2,
}
DEEP_SEARCH = {
    "data.max_prompt_length": 2000,
    "data.max_response_length": 8192,
    "arpo.max_tool_calls": 6,
    "trainer.total_epochs": 5,
}
OF_A_SCRIPT = {
    "run_qwen2_5_7b_reasoning_vllm": ("Qwen/Qwen2.5-7B-Instruct", 1, "tools.yaml", REASONING),
    "run_qwen2_5_3b_reasoning_vllm": ("Qwen/Qwen2.5-3B-Instruct", 1, "tools.yaml", REASONING),
    "run_llama3_1_8b_reasoning_vllm": ("meta-llama/Llama-3.1-8B-Instruct", 1, "tools.yaml", REASONING),
    "run_qwen3_8b_deep_search_vllm": ("Qwen/Qwen3-8B", 1, "web_tools.yaml", DEEP_SEARCH),
    "run_qwen3_14b_deep_search_vllm": ("Qwen/Qwen3-14B", 2, "web_tools.yaml", DEEP_SEARCH),
}
each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)


@each_script
def test_a_recipe_has_the_papers_values_and_passes_every_check_before_ray(script, tmp_path, data, monkeypatch):
    config = configuration(script, tmp_path, data)
    model, machines, tools, task = OF_A_SCRIPT[script.stem]
    expected = PAPER | task | {"actor_rollout_ref.model.path": model, "trainer.nnodes": machines}
    assert values(config, expected) == expected
    assert config.algorithm.adv_estimator == "arpo"
    assert Path(config.actor_rollout_ref.rollout.multi_turn.tool_config_path).name == tools
    longest = config.data.max_prompt_length + config.data.max_response_length
    assert config.actor_rollout_ref.actor.ppo_max_token_len_per_gpu >= longest
    for name in ("ARPO_SEARCH_CORPUS", "SERPER_API_KEY"):
        monkeypatch.setenv(name, data[name])
    monkeypatch.setenv("ARPO_OUTPUT", str(tmp_path))
    say_installed(monkeypatch, {"verl": "0.9.1", "vllm": "0.24.0"})
    validate_config(config, need_reference_policy(config), need_critic(config))


@each_script
def test_twins_differ_in_the_estimator_and_in_nothing_else(script, tmp_path, data):
    arpo = overrides_of(script, tmp_path, data | {"EXPERIMENT_NAME": "x"})
    for algorithm, estimator in (("grpo", "grpo"), ("ppo", "gae")):
        twin = overrides_of(script, tmp_path, data | {"EXPERIMENT_NAME": "x", "ALGORITHM": algorithm})
        assert [pair for pair in zip(arpo, twin, strict=True) if pair[0] != pair[1]] == [
            ("algorithm.adv_estimator=arpo", f"algorithm.adv_estimator={estimator}")
        ]


def test_paths_may_hold_what_hydras_grammar_gives_a_meaning(tmp_path, data):
    odd = tmp_path / "lr=1e-6, (o'clock)"
    odd.mkdir()
    settings = data | {"MODEL_PATH": str(odd / "model"), "TRAIN_FILES": str(odd / "a b.parquet")}
    config = configuration(SCRIPTS[0], odd, settings)
    assert config.actor_rollout_ref.model.path == str(odd / "model")
    assert config.data.train_files == str(odd / "a b.parquet")
    assert config.trainer.default_local_dir == str(odd / "output" / "checkpoints")


def test_ppo_has_a_critic_that_starts_from_the_same_model(tmp_path, data):
    config = configuration(RECIPES / "run_qwen2_5_7b_reasoning_vllm.sh", tmp_path, data | {"ALGORITHM": "ppo"})
    assert need_critic(config)
    assert config.critic.model.path == config.actor_rollout_ref.model.path == "Qwen/Qwen2.5-7B-Instruct"
    assert config.critic.ppo_mini_batch_size == 16
    assert config.critic.use_dynamic_bsz
    assert config.critic.ppo_infer_max_token_len_per_gpu == 16384


@each_script
def test_the_lora_preset_keeps_the_leaves_of_a_prompt(script, tmp_path, data):
    config = configuration(script, tmp_path, data | {"PRESET": "lora_24gb"})
    gpus = 2 if "14b" in script.stem else 1
    expected = {
        "actor_rollout_ref.model.lora_rank": 32,
        "actor_rollout_ref.model.lora_alpha": 32,
        "actor_rollout_ref.actor.fsdp_config.model_dtype": "fp32",
        "actor_rollout_ref.actor.fsdp_config.offload_policy": True,
        "actor_rollout_ref.rollout.load_format": "safetensors",
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu": 10240,
        "actor_rollout_ref.rollout.tensor_model_parallel_size": gpus,
        "trainer.n_gpus_per_node": gpus,
        "trainer.nnodes": 1,
        "data.train_batch_size": 16,
        "actor_rollout_ref.rollout.n": 16,
        "arpo.initial_rollouts": 8,
    }
    assert values(config, expected) == expected


def test_what_is_set_by_hand_wins_over_presets_and_words_win_over_all(tmp_path, data):
    settings = data | {"PRESET": "lora_24gb", "LORA_RANK": "8", "NNODES": "2", "ROLLOUT_N": "12"}
    script = RECIPES / "run_qwen3_8b_deep_search_vllm.sh"
    config = configuration(script, tmp_path, settings, "actor_rollout_ref.rollout.n=10", "arpo.advantage=hard")
    assert config.actor_rollout_ref.model.lora_rank == 8
    assert config.trainer.nnodes == 2
    assert config.actor_rollout_ref.rollout.n == 10
    assert config.arpo.advantage == "hard"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"TRAIN_FILES": ""}, "TRAIN_FILES is not set; expected a verl parquet file"),
        ({"VALIDATION_FILES": ""}, "VALIDATION_FILES is not set; expected a verl parquet file"),
        ({"ARPO_SEARCH_CORPUS": ""}, "ARPO_SEARCH_CORPUS is not set; expected the corpus of the local search"),
        (
            {"TOOLS": "${arpo_tools:web_tools.yaml}", "SERPER_API_KEY": ""},
            "SERPER_API_KEY is not set; expected",
        ),
        (
            {"NNODES": "2", "RAY_ADDRESS": ""},
            "RAY_ADDRESS is not set; expected HOST:PORT",
        ),
        ({"ALGORITHM": "dapo"}, "ALGORITHM=dapo; expected arpo, grpo or ppo"),
        ({"ALGORITHM": "ppo", "PRESET": "lora_24gb"}, "ALGORITHM=ppo with LORA_RANK=32; expected 0"),
        ({"PLATFORM": "tpu"}, "PLATFORM=tpu; expected gpu or cpu"),
        ({"PRESET": "big"}, "PRESET names 'big'; expected some of lora_24gb tiny"),
        ({"ALGORITHM": "apro"}, "ALGORITHM=apro; expected arpo, grpo or ppo"),
        ({"PRESET": "tiny", "ALGORITHM": "apro"}, "ALGORITHM=apro; expected arpo, grpo or ppo"),
        *(
            ({name: value}, f"{name}={value}; expected a whole number of at least 1")
            for name in (
                "NNODES",
                "TRAIN_BATCH_SIZE",
                "MAX_PROMPT_LENGTH",
                "BRANCH_FACTOR",
                "TOTAL_EPOCHS",
                "ROLLOUT_TP",
            )
            for value in ("0", "4x0", "-1", "1.5", "08", "99999999999999999999")
        ),
        ({"ROLLOUT_N": "1"}, "ROLLOUT_N=1; expected a whole number of at least 2"),
        ({"INITIAL_ROLLOUTS": "17"}, "INITIAL_ROLLOUTS=17; expected at most ROLLOUT_N=16"),
        ({"TOTAL_STEPS": "abc"}, "TOTAL_STEPS=abc; expected a whole number of at least 1, or null"),
        ({"SAVE_FREQ": "0"}, "SAVE_FREQ=0; expected a whole number of at least 1, or -1"),
        ({"ACTOR_LR": "1e-6x"}, "ACTOR_LR=1e-6x; expected a number of at least 0"),
        ({"ENTROPY_WEIGHT": "much"}, "ENTROPY_WEIGHT=much; expected a number of at least 0"),
        ({"OFFLOAD": "yes"}, "OFFLOAD=yes; expected true or false"),
        ({"MODEL_DTYPE": "float32"}, "MODEL_DTYPE=float32; expected fp32, bf16 or fp16"),
        ({"LORA_RANK": "x"}, "LORA_RANK=x; expected a whole number of at least 0"),
    ],
)
def test_what_can_not_work_is_said_before_python_starts(settings, message, data, tmp_path):
    variables = environment(PYTHON="false", OUTPUT=str(tmp_path)) | data | settings
    command = ["bash", str(RECIPES / "run_qwen2_5_7b_reasoning_vllm.sh")]
    ended = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"run_qwen2_5_7b_reasoning_vllm.sh: {message}")


def test_shellcheck_has_nothing_to_say_about_any_script():
    scripts = [*RECIPES.rglob("*.sh"), *(ROOT / "tests").rglob("*.sh"), ROOT / ".ci" / "run"]
    assert len(scripts) >= 12
    shellcheck = Path(sys.executable).parent / "shellcheck"
    command = [str(shellcheck), "--external-sources", "--source-path=SCRIPTDIR", "--severity=style"]
    ended = subprocess.run([*command, *map(str, scripts)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout


@pytest.mark.slow
@each_script
def test_verl_prints_the_configuration_of_a_recipe(script, data, tmp_path):
    variables = environment(PYTHON=sys.executable, OUTPUT=str(tmp_path)) | data
    command = ["bash", str(script), "--cfg", "job"]
    printed = subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout
    config = OmegaConf.create(printed)
    expected = PAPER | OF_A_SCRIPT[script.stem][3]
    assert values(config, expected) == expected


# Each of the other scripts once, with one preset or algorithm each; the 14B is trained below, on two machines.
# ARPO and GRPO by full fine-tuning are what the quickstart and the tests of training run, too.
RUNS = [
    pytest.param("run_qwen2_5_7b_reasoning_vllm", "tiny", "arpo", marks=pytest.mark.nightly),
    ("run_qwen2_5_3b_reasoning_vllm", "tiny lora_24gb", "arpo"),
    pytest.param("run_llama3_1_8b_reasoning_vllm", "tiny", "grpo", marks=pytest.mark.nightly),
    ("run_qwen3_8b_deep_search_vllm", "tiny", "ppo"),
]


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.parametrize(("name", "preset", "algorithm"), RUNS)
def test_a_recipe_trains_in_miniature_by_environment_variables_alone(name, preset, algorithm, world, tmp_path):
    settings = {"PRESET": preset, "ALGORITHM": algorithm, "WORLD": str(world), "OUTPUT": str(tmp_path)}
    steps = run(RECIPES / f"{name}.sh", tmp_path, settings)
    assert len(steps) == 2
    for number, step in enumerate(steps, start=1):
        prompts = read_step(tmp_path / "rollouts" / f"{number}.jsonl").prompts
        assert [len(prompt.leaves) for prompt in prompts] == [4, 4, 4, 4]
        assert step["actor/grad_norm"] > 0
        assert ("arpo/leaves" in step) == (algorithm == "arpo")
        assert ("critic/vf_loss" in step) == (algorithm == "ppo")
        if algorithm == "arpo":
            assert step["arpo/leaves/min"] == step["arpo/leaves/max"] == 4
        # The servers' weights are the trainer's, an adapter's included.
        assert step["training/rollout_actor_probs_pearson_corr"] > 0.999


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.nightly
def test_two_machines_train_on_a_ray_cluster_that_is_already_running(world, tmp_path, monkeypatch):
    for name, value in (("VERL_PLATFORM", "cpu"), ("OMP_NUM_THREADS", "1")):
        monkeypatch.setenv(name, value)  # as for `ray start` on each machine
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 16, "num_gpus": 1})
    try:
        cluster.add_node(num_cpus=16, num_gpus=1)
        settings = {"PRESET": "tiny", "NNODES": "2", "RAY_ADDRESS": cluster.address}
        paths = {"WORLD": str(world), "OUTPUT": str(tmp_path)}
        steps = run(RECIPES / "run_qwen3_14b_deep_search_vllm.sh", tmp_path, settings | paths, "trainer.save_freq=2")
    finally:
        cluster.shutdown()
    assert [step["arpo/leaves/min"] for step in steps] == [4, 4]
    shards = (tmp_path / "checkpoints" / "global_step_2" / "actor").glob("model_*.pt")
    assert sorted(shard.name for shard in shards) == [f"model_world_size_2_rank_{rank}.pt" for rank in (0, 1)]


def run(script: Path, folder: Path, settings: dict[str, str], *words: str) -> list[dict[str, Any]]:
    """Run a recipe to its end in a folder, and return what each step logged."""
    mark = uuid.uuid4().hex
    variables = environment(PYTHON=sys.executable, **{RUN_MARK: mark}) | settings
    with (folder / "train.log").open("w") as log:
        command = ["bash", str(script), *words]
        child = subprocess.Popen(command, stdout=log, stderr=log, env=variables, cwd=folder, start_new_session=True)
    try:
        child.wait(timeout=600)
    finally:
        stop(child, mark)
    assert child.returncode == 0, (folder / "train.log").read_text(errors="replace")[-5000:]
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [entry["data"] for line in lines if (entry := json.loads(line))["step"] > 0]
