"""Trains several configurations after one another on one set of started processes: models, inference server, rewards.

    python train_presets.py FILE    # JSON: {"folder": ..., "overrides": [...], "runs": {name: [overrides of its own]}}

Ray, the training worker, vLLM, reward and agent loop workers start once, with the first configuration. Each run has a
trainer of its own, and agent loop workers that are made anew in their processes, so nothing of its settings is shared;
the weights go on from run to run.
The metrics of a run go to `<name>.jsonl` in the folder, its error, if it ends by one, to `<name>.error`.
"""

import json
import os
import sys
import traceback
from functools import partial
from pathlib import Path
from typing import Any

import ray
from omegaconf import DictConfig, OmegaConf
from verl.utils.import_utils import load_class_from_fqn

from arpo_verl.integration.settings import register_resolver
from arpo_verl.preflight.compose import compose_config

SHARED: dict[str, Any] = {}
"""The attributes of the first trainer, of which the others take what they have not got themselves."""


def trainer_class() -> type:
    """Return verl's trainer, with ours over it, which starts processes once."""
    from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.utils.losses import ppo_loss

    from arpo_verl.integration.training.trainer import ArpoTrainer

    class SharingTrainer(PPOTrainerSync):
        def _setup(self) -> None:
            if not SHARED:
                super()._setup()
                SHARED.update(self.__dict__)
                return
            shared = {name: value for name, value in SHARED.items() if name not in self.__dict__}
            self.__dict__.update(shared)
            self._init_tokenizer()
            self._init_dump_executor()
            self._load_checkpoint()
            actor = omega_conf_to_dataclass(self.config.actor_rollout_ref.actor)
            self.actor_rollout_wg.set_loss_fn(partial(ppo_loss, config=actor))  # as `init_model` does

    return type("SharingArpoTrainer", (ArpoTrainer, SharingTrainer), {})


def agent_loop_manager(trainer: Any) -> Any:
    """Return a trainer's manager: the first starts its workers, those of others are made anew in the same processes."""
    config = trainer.config
    parts = (config, trainer.get_llm_client(), trainer.get_teacher_client(), trainer.get_reward_handles())
    kind = load_class_from_fqn(config.actor_rollout_ref.rollout.agent.agent_loop_manager_class)
    if "agent_loop_workers" not in SHARED:
        manager = kind.create(*parts)
        SHARED["agent_loop_workers"] = manager.agent_loop_workers
        return manager
    manager = kind(*parts)
    manager.agent_loop_workers = SHARED["agent_loop_workers"]
    ray.get([worker.__ray_call__.remote(make_anew, *parts) for worker in manager.agent_loop_workers])
    return manager


def make_anew(worker: Any, *parts: Any) -> None:
    worker.__init__(*parts)


class PresetsRunner:
    """In the place of verl's task runner (`trainer/main_ppo.py`): a trainer after the other."""

    def run(self, configs: dict[str, DictConfig], folder: str) -> None:
        import transfer_queue
        from verl.utils.logging_utils import configure_verl_logging

        configure_verl_logging()
        os.chdir(folder)
        first = next(iter(configs.values()))
        transfer_queue.init(first.transfer_queue)
        for name, config in configs.items():
            os.environ["VERL_FILE_LOGGER_PATH"] = f"{folder}/{name}.jsonl"
            try:
                trainer = trainer_class()(config=config)
                trainer.init()
                trainer.fit(agent_loop_manager(trainer))
            except Exception:
                Path(folder, f"{name}.error").write_text(traceback.format_exc())
        transfer_queue.close()


def main() -> None:
    """Compose the configurations as verl's command would, check each, and run them all."""
    from verl.trainer.main_ppo import run_ppo
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    wanted = json.loads(Path(sys.argv[1]).read_text())
    register_resolver()
    configs = {}
    for name, overrides in wanted["runs"].items():
        config = compose_config("config", "ppo_trainer", [*wanted["overrides"], *overrides])
        validate_config(config, need_reference_policy(config), need_critic(config))
        config.transfer_queue.enable = True
        OmegaConf.resolve(config)
        Path(wanted["folder"], f"{name}.yaml").write_text(OmegaConf.to_yaml(config))
        configs[name] = config

    class Runner(PresetsRunner):
        def run(self, config: DictConfig) -> None:
            super().run(configs, wanted["folder"])

    run_ppo(next(iter(configs.values())), ray.remote(Runner))


if __name__ == "__main__":
    main()
