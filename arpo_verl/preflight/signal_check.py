"""Checks of rewards of turns, information gain, hints and rewards by step: what each needs of a run.

The rows of the data, gold answers and solutions, are checked with all other rows (`dataset_check.py`).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from arpo_tools.dotted_path import load
from arpo_verl.integration.settings import AGENT_KEY, TAG_AGENT, RunParts, arpo_config
from arpo_verl.preflight.tag_check import OUR_REWARD
from arpo_verl.rollout.hints import HintSettings

GAIN_SIGNAL = "info_gain"
"""The `signal` of a term of `arpo.advantage_kwargs` that is made of information gains."""
NEEDED_SETTINGS = {"compute_staged_score": "stage_one_steps", "compute_flawed_score": "flawed"}
"""The setting without which a reward of ours can't do, by `reward.custom_reward_function.name`; the first depends on
the training step."""


def check_signals(config: DictConfig) -> None:
    """Check what a run of any kind asks for beside the rewards of its leaves.

    Raises:
        ValueError: a function or a setting can't be used, or the run can't give what is asked for.
    """
    from arpo_verl.integration.rollout.signals import SignalSource

    arpo, parts = arpo_config(config), RunParts.of(config)
    SignalSource.of(config)
    has_turns = parts.grows_trees or parts.uses_tag_agent
    for key, is_asked in (("turn_rewards", arpo.turn_rewards is not None), ("information_gain", arpo.information_gain)):
        if is_asked and not has_turns:
            raise ValueError(
                f"arpo.{key}={getattr(arpo, key)} with arpo.rollout={arpo.rollout} and {AGENT_KEY} another than "
                f"{TAG_AGENT}; expected our own rollout, which knows a leaf's turns: set arpo.rollout=tree, or "
                f"{AGENT_KEY}={TAG_AGENT}"
            )
    if GAIN_SIGNAL in _signals(arpo.advantage_kwargs) and parts.uses_our_advantage and not arpo.information_gain:
        raise ValueError(
            f"arpo.advantage_kwargs has a term with signal={GAIN_SIGNAL}, and arpo.information_gain=False; expected "
            f"the gains that it is made of: set arpo.information_gain=true"
        )
    if arpo.hints:
        _check_hints(config, parts)
    _check_rewards(config, parts)


def _signals(value: Any) -> Iterator[Any]:
    """Yield every `signal` in settings of whatever depth."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name == "signal":
                yield inner
            yield from _signals(inner)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for inner in value:
            yield from _signals(inner)


def _check_hints(config: DictConfig, parts: RunParts) -> None:
    HintSettings.of(arpo_config(config).hint_kwargs)
    if not parts.grows_trees:
        raise ValueError(
            f"arpo.hints=True with arpo.rollout={arpo_config(config).rollout} and algorithm.adv_estimator="
            f"{config.algorithm.adv_estimator}; expected a rollout that knows all leaves of a prompt: set "
            f"arpo.rollout=tree"
        )
    model = config.reward.reward_model
    if model.enable and not model.enable_resource_pool:
        raise ValueError(
            "arpo.hints=True with a reward model that shares its GPUs with the rollout, whose rewards come only after "
            "it; expected rewards during the rollout: set reward.reward_model.enable_resource_pool=True, or use a "
            "reward function"
        )


def _check_rewards(config: DictConfig, parts: RunParts) -> None:
    """Check those of our rewards that can't do without a setting."""
    reward = config.reward.custom_reward_function
    needed = NEEDED_SETTINGS.get(reward.name) if reward.path == OUR_REWARD else None
    if needed is None:
        return
    settings = reward.get("reward_kwargs") or {}
    key = f"reward.custom_reward_function.reward_kwargs.{needed}"
    if settings.get(needed) is None:
        raise ValueError(f"{key} is missing; expected it with the reward {reward.name}: set +{key}=...")
    if needed == "flawed":
        load(settings[needed], f"{key}: the function")
    elif not parts.is_guarded:
        raise ValueError(
            f"reward.custom_reward_function.name={reward.name} in a run of verl's own workers, which tell a reward "
            f"nothing of the step; expected ours: set algorithm.adv_estimator=arpo, arpo.rollout=tree, or "
            f"{AGENT_KEY}={TAG_AGENT}"
        )
