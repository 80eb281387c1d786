"""Checks before a run starts that its source of replay can work with the rest of its configuration."""

from omegaconf import DictConfig, OmegaConf

from arpo_verl.integration.training.replay_source import FILE, source_of
from arpo_verl.preflight.resume_check import step_to_resume
from arpo_verl.replay import ReplaySource
from arpo_verl.replay.store.files import read_rows


def check_replay(config: DictConfig) -> bool:
    """Check the source of replay that a configuration chooses, and return whether it chooses one.

    Raises:
        ValueError: it can't be found, does not take its settings, or can't work with the other settings; or the store
            that the run would go on from is damaged.
    """
    source = source_of(config)
    if source is None:
        return False
    _check_trainer(config)
    _check_log_probs(config, source)
    if source.needs_failed_groups and OmegaConf.select(config, "algorithm.filter_groups.enable"):
        raise ValueError(
            "algorithm.filter_groups.enable=True with arpo.replay, whose source helps groups that fail as a whole: "
            "verl replaces these before; expected one of them: turn the filter off, or set "
            "arpo.replay_kwargs.trigger=always"
        )
    folder = step_to_resume(config)
    if folder is not None and (folder / FILE).is_file():
        read_rows(folder / FILE, None)
    return True


def _check_trainer(config: DictConfig) -> None:
    mode = config.trainer.v1.trainer_mode
    if mode != "sync":
        raise ValueError(
            f"trainer.v1.trainer_mode={mode!r} with arpo.replay={config.arpo.replay}; expected 'sync': in the other "
            f"modes a step's own rows are of several versions of the weights, some in flight when a checkpoint is "
            f"made, so that neither a stored row's age nor what a resumed run goes on from is defined: change it"
        )
    for key, reason in (
        ("distillation.enabled", "a stored row has no log-probabilities of the teacher model"),
        ("actor_rollout_ref.rollout.enable_rollout_routing_replay", "a stored row does not carry its experts"),
    ):
        if OmegaConf.select(config, key):
            raise ValueError(f"{key}=True with arpo.replay={config.arpo.replay}; expected False: {reason}")


def _check_log_probs(config: DictConfig, source: ReplaySource) -> None:
    bypass = OmegaConf.select(config, "algorithm.rollout_correction.bypass_mode")
    if bypass and source.old_log_prob == "current":
        raise ValueError(
            "algorithm.rollout_correction.bypass_mode=True, in which verl computes no log-probabilities at a step's "
            "beginning, with a source of replay that needs them; expected arpo.replay_kwargs.old_log_prob=stored, or "
            "bypass_mode=False: change one of them"
        )
    if source.old_log_prob == "probability" and config.algorithm.use_kl_in_reward:
        raise ValueError(
            "algorithm.use_kl_in_reward=True with arpo.replay_kwargs.old_log_prob=probability, whose log-probabilities "
            "of 0 would count as a distance from the reference; expected actor_rollout_ref.actor.use_kl_loss instead, "
            "or old_log_prob=current: change one of them"
        )
