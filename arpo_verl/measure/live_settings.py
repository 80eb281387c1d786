"""The command of a run that grows trees for a measurement and trains nothing."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from arpo_verl.measure.bootstrap import FEWEST_PROMPTS
from arpo_verl.preflight.compose import compose_config

FEWEST_LEAVES = 4
"""Two roots, so that prefixes can be compared, and two leaves more, so that they can fork."""


OF_REPLACED_PARTS = ("arpo.rule_kwargs", "arpo.advantage_kwargs", "arpo.loss_kwargs", "arpo.replay_kwargs")
"""Settings of parts that a measurement chooses itself; an empty mapping behind them would not replace them."""


class WrongWords(ValueError):
    """The overrides or options can't be what was meant."""


@dataclass(frozen=True)
class LiveOptions:
    """What the command was given."""

    overrides: tuple[str, ...]
    config_path: str
    config_name: str
    prompts: int
    keep: Path | None = None


def training_command(options: LiveOptions, folder: Path) -> list[str]:
    """Return verl's command with the overrides of a training, so that it grows trees and trains nothing.

    verl's V1 trainer updates the actor from the step `trainer.critic_warmup` on (0.9.1, `_step_once` in
    `trainer/ppo/v1/trainer_base.py`); beyond the last step, it never does. Rollout, tools, reward, entropies and record
    are those of training, and the weights stay. Without a critic nothing else is trained.

    Args:
        options: what the command was given.
        folder: where its record and its other files go.

    Raises:
        WrongWords: the overrides can't be composed, or leave nothing to measure.
    """
    if options.prompts < FEWEST_PROMPTS:
        raise WrongWords(
            f"--prompts={options.prompts}; expected {FEWEST_PROMPTS} at least, and better 64, for an interval: raise it"
        )
    own = own_overrides(_composed(options), options, folder)
    preset = ["--config-path", options.config_path, "--config-name", options.config_name]
    kept = [word for word in options.overrides if not word.lstrip("+~").startswith(OF_REPLACED_PARTS)]
    return [sys.executable, "-m", "verl.trainer.main_ppo", *preset, *kept, *own]


def own_overrides(config: DictConfig, options: LiveOptions, folder: Path) -> list[str]:
    """Return the overrides that follow the user's.

    Args:
        config: composed of the user's.
        options: what the command was given.
        folder: where files go.

    Raises:
        WrongWords: a prompt has too few leaves.
    """
    leaves, batch = config.actor_rollout_ref.rollout.n, config.data.train_batch_size
    if leaves < FEWEST_LEAVES:
        raise WrongWords(
            f"actor_rollout_ref.rollout.n={leaves}; expected {FEWEST_LEAVES} at least, two that start from the prompt "
            f"and two that fork: raise it"
        )
    steps = math.ceil(options.prompts / batch)
    return [
        "algorithm.adv_estimator=arpo",
        "arpo.preset=null",
        "arpo.rollout=tree",
        "arpo.rule=bernoulli",
        "arpo.entropy_weight=0",
        "arpo.base_probability=0.5",
        "arpo.branch_factor=2",
        f"arpo.initial_rollouts={leaves // 2}",
        "arpo.advantage=soft",
        "arpo.loss=null",
        "arpo.replay=null",
        "critic.enable=False",
        "actor_rollout_ref.actor.policy_loss.loss_mode=vanilla",
        f"trainer.critic_warmup={steps + 1}",
        f"trainer.total_training_steps={steps}",
        "trainer.total_epochs=1000",
        "trainer.val_before_train=False",
        "trainer.test_freq=-1",
        "trainer.save_freq=-1",
        "trainer.resume_mode=disable",
        "trainer.logger=[console]",
        f"trainer.rollout_data_dir={quoted(folder / 'rollouts')}",
        f"trainer.default_local_dir={quoted(folder / 'checkpoints')}",
        f"hydra.run.dir={quoted(folder / 'hydra')}",
    ]


def quoted(value: Path | str) -> str:
    """Quote a value for Hydra's override grammar, in which most punctuation has a meaning."""
    text = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


def _composed(options: LiveOptions) -> DictConfig:
    """Compose the configuration.

    Raises:
        WrongWords: it can't be.
    """
    overrides: Sequence[str] = options.overrides
    strange = [word for word in overrides if "=" not in word and not word.startswith("~")]
    if strange:
        raise WrongWords(f"{strange[0]!r} is no override; expected KEY=VALUE: correct it, or give one RUN alone")
    try:
        return compose_config(options.config_path, options.config_name, list(overrides))
    except (ValueError, ImportError, HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        override = f"{error.override!r}: " if isinstance(error, OverrideParseException) else ""
        raise WrongWords(f"{override}{error}") from error
