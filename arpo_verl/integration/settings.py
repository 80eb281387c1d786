"""Reads ARPO's settings from a verl configuration, and the names that its parts share."""

from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from arpo_verl.config import ArpoConfig

ESTIMATOR = "arpo"
"""`algorithm.adv_estimator`."""
TAG_FORMAT = "arpo_tags"
"""`actor_rollout_ref.rollout.multi_turn.format`."""
TAG_AGENT = "tag_agent"
"""`actor_rollout_ref.rollout.agent.default_agent_loop`."""
ENTROPY_ROLLOUT = "arpo_vllm"
"""`actor_rollout_ref.rollout.name` of the replica that measures entropies."""
ENTROPY_REQUEST = "arpo_entropy"
"""Key of vLLM's `SamplingParams.extra_args`: {tokens, top_k, is_truncated}."""
CPU_OVERRIDES = "platform=cpu after the preset, or hydra.searchpath=[pkg://arpo_verl.config] +platform=cpu"
"""What a command on CPU needs: the preset knows the group `platform`, verl's own configuration has to find it."""
ENTROPIES, FINISH_REASON = "arpo_entropies", "arpo_finish_reason"
"""Keys of verl's `TokenOutput.extra_fields`."""


def wants_arpo(config: DictConfig) -> bool:
    """Return whether the one flag is set."""
    return config.algorithm.adv_estimator == ESTIMATOR


def arpo_config(config: DictConfig) -> ArpoConfig:
    """Return the `arpo` group of a verl configuration, or the defaults where there is none.

    Raises:
        ValueError: see `ArpoConfig.from_mapping`.
    """
    group = config.get("arpo")
    if group is not None and not isinstance(group, DictConfig):
        raise ValueError(f"arpo={group!r}; expected a group of keys: set arpo.<key>=... instead")
    return ArpoConfig.from_mapping({} if group is None else OmegaConf.to_container(group, resolve=True))


def path_in_tools(file: str) -> str:
    """Return the path of a file of `arpo_tools`, which an editable install keeps elsewhere than a wheel."""
    package = find_spec("arpo_tools")
    assert package is not None and package.origin is not None
    return str(Path(package.origin).parent / file)


def register_resolver() -> None:
    """Let configurations say `${arpo_tools:tools.yaml}`. Idempotent."""
    OmegaConf.register_new_resolver("arpo_tools", path_in_tools, replace=True)
