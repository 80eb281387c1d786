"""Real training runs for the slow tests: verl's command line on CPU, in a process that leaves nothing behind."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from quickstart import RUN_MARK, TrainingRun, stop

TOOLS = Path(__file__).parents[2] / "tools" / "tools.yaml"
LEAVES = 4
PROMPTS = 4


def stock_overrides(world: Path, folder: Path) -> list[str]:
    """What a stock verl command needs on CPU, with tools by verl's own keys; no preset and nothing of ARPO's."""
    rollout = {
        "name": "vllm",
        "n": LEAVES,
        "tensor_model_parallel_size": 1,
        "dtype": "float32",
        "enforce_eager": True,
        "free_cache_engine": False,
        "log_prob_micro_batch_size_per_gpu": 8,
        "agent.num_workers": 1,
        "agent.default_agent_loop": "tag_agent",
        "checkpoint_engine.update_weights_bucket_megabytes": 64,
        "multi_turn.enable": True,
        "multi_turn.format": "arpo_tags",
        "multi_turn.tool_config_path": TOOLS,
    }
    actor = {
        "strategy": "fsdp2",
        "use_torch_compile": False,
        "ppo_mini_batch_size": PROMPTS,
        "ppo_micro_batch_size_per_gpu": 8,
        "optim.lr": 2e-4,
        "fsdp_config.model_dtype": "fp32",
    }
    return [
        *(f"actor_rollout_ref.rollout.{key}={value}" for key, value in rollout.items()),
        *(f"actor_rollout_ref.actor.{key}={value}" for key, value in actor.items()),
        *(
            f"+actor_rollout_ref.actor.fsdp_config.mixed_precision.{key}_dtype=fp32"
            for key in ("param", "reduce", "buffer")
        ),
        "+actor_rollout_ref.rollout.enable_sleep_mode=False",
        "+actor_rollout_ref.rollout.engine_kwargs.vllm.distributed_executor_backend=uni",
        "actor_rollout_ref.ref.strategy=fsdp2",
        "actor_rollout_ref.model.use_remove_padding=False",
        "+actor_rollout_ref.model.override_config.attn_implementation=sdpa",
        f"actor_rollout_ref.model.path={world / 'model'}",
        "data.dataloader_num_workers=0",
        f"data.train_batch_size={PROMPTS}",
        "data.max_prompt_length=64",
        "data.max_response_length=128",
        f"data.train_files={world / 'train.parquet'}",
        f"data.val_files={world / 'validation.parquet'}",
        "data.val_max_samples=4",
        "reward.num_workers=1",
        "reward.custom_reward_function.path=pkg://arpo_verl.reward",
        "trainer.device=cpu",
        "trainer.n_gpus_per_node=1",
        "trainer.logger=[console,file]",
        "trainer.val_before_train=False",
        f"trainer.rollout_data_dir={folder / 'rollouts'}",
        f"trainer.default_local_dir={folder / 'checkpoints'}",
        "ray_kwargs.ray_init.num_cpus=32",
        "+ray_kwargs.ray_init.num_gpus=1",
        "+ray_kwargs.ray_init.include_dashboard=False",
        "transfer_queue.backend.SimpleStorage.num_data_storage_units=1",
    ]


def seeded_grpo(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Return the overrides and variables of a GRPO run by verl's own agent loop whose sampling is seeded."""
    agent_loops = folder / "agent_loops.yaml"
    agent_loops.write_text("- name: seeded\n  _target_: seeded_agent_loop.SeededSingleTurnAgentLoop\n")
    overrides = [
        "algorithm.adv_estimator=grpo",
        "actor_rollout_ref.rollout.agent.default_agent_loop=seeded",
        f"actor_rollout_ref.rollout.agent.agent_loop_config_path={agent_loops}",
        "data.seed=1",
    ]
    return overrides, {"PYTHONPATH": str(Path(__file__).parents[1] / "integration")}


def train(world: Path, folder: Path, *overrides: str, **environment: str) -> list[dict[str, Any]]:
    """Run a stock command to its end and return what each step logged."""
    child = start(world, folder, *overrides, **environment)
    try:
        child.wait(timeout=600)
    finally:
        stop(child, child.mark)
    log_text = (folder / "train.log").read_text(errors="replace")
    assert child.returncode == 0, log_text[-5000:]
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [entry["data"] for line in lines if (entry := json.loads(line))["step"] > 0]


class Training(subprocess.Popen[bytes]):
    """A training process, and the mark by which all its descendants are found."""

    mark: str


def start(world: Path, folder: Path, *overrides: str, **environment: str) -> Training:
    """Start a stock command in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    base = TrainingRun("", 0, 0, folder, []).environment() | {
        "ARPO_SEARCH_CORPUS": str(world / "corpus.jsonl"),
        "VERL_FILE_LOGGER_PATH": str(folder / "metrics.jsonl"),
    }
    variables = base | environment
    command = [sys.executable, "-m", "verl.trainer.main_ppo", *stock_overrides(world, folder), *overrides]
    with (folder / "train.log").open("w") as log:
        child = Training(command, stdout=log, stderr=log, env=variables, cwd=folder, start_new_session=True)
    child.mark = variables[RUN_MARK]
    return child
