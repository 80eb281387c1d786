"""Reads ARPO's settings from a verl configuration, and the names that its parts share."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from arpo_verl.config import ArpoConfig

ESTIMATOR = "arpo"
"""`algorithm.adv_estimator`."""
TAG_FORMAT = "arpo_tags"
"""`actor_rollout_ref.rollout.multi_turn.format`."""
TAG_AGENT = "tag_agent"
"""Our agent loop, under `AGENT_KEY`."""
AGENT_KEY = "actor_rollout_ref.rollout.agent.default_agent_loop"
CPU_OVERRIDES = "platform=cpu after the preset, or hydra.searchpath=[pkg://arpo_verl.config] +platform=cpu"
"""What a command on CPU needs: the preset knows the group `platform`, verl's own configuration has to find it."""


@dataclass(frozen=True)
class RunParts:
    """What of this package a run uses. Everything that has to know asks here."""

    grows_trees: bool
    """A prompt's leaves branch from one another (`arpo.rollout`)."""
    uses_our_advantage: bool
    """The one flag, `algorithm.adv_estimator=arpo`: advantages are those of `arpo.advantage`."""
    uses_tag_agent: bool
    """Leaves are grown by our agent loop, `tag_agent`, in trees or each for itself."""

    @classmethod
    def of(cls, config: DictConfig) -> "RunParts":
        """Return the parts that a verl configuration asks for.

        Raises:
            ValueError: see `ArpoConfig.from_mapping`.
        """
        is_flagged = config.algorithm.adv_estimator == ESTIMATOR
        rollout = arpo_config(config).rollout
        return cls(
            grows_trees=is_flagged if rollout == "auto" else rollout == "tree",
            uses_our_advantage=is_flagged,
            uses_tag_agent=OmegaConf.select(config, AGENT_KEY) == TAG_AGENT,
        )

    @property
    def leaves_out(self) -> bool:
        """Leaves of `arpo.exclude`, and those with a non-finite reward, train nothing and count in no statistics."""
        return self.grows_trees or self.uses_our_advantage

    @property
    def is_guarded(self) -> bool:
        """The run stops when its tools fail, and its last finished step is saved, however it ends."""
        return self.grows_trees or self.uses_our_advantage or self.uses_tag_agent

    @property
    def has_response_prefix(self) -> bool:
        """The reward is told what the chat template has opened for the model."""
        return self.grows_trees or self.uses_tag_agent


def arpo_config(config: DictConfig) -> ArpoConfig:
    """Return the `arpo` group of a verl configuration, or the defaults where there is none.

    Raises:
        ValueError: see `ArpoConfig.from_mapping`.
    """
    group = config.get("arpo")
    if group is not None and not isinstance(group, DictConfig):
        raise ValueError(f"arpo={group!r}; expected a group of keys: set arpo.<key>=... instead")
    knobs: Any = {} if group is None else OmegaConf.to_container(group, resolve=True)
    arpo = ArpoConfig.from_mapping(knobs)
    if arpo.preset is not None:
        raise ValueError(
            f"arpo.preset={arpo.preset} has not been filled in; expected "
            f"arpo_verl.presets.fill.fill_preset to have been called on the configuration, as verl's own command does: "
            f"call it first"
        )
    return arpo


def path_in_tools(file: str) -> str:
    """Return the path of a file of `arpo_tools`, which an editable install keeps elsewhere than a wheel."""
    package = find_spec("arpo_tools")
    assert package is not None and package.origin is not None
    return str(Path(package.origin).parent / file)


def register_resolver() -> None:
    """Let configurations say `${arpo_tools:tools.yaml}`. Idempotent."""
    OmegaConf.register_new_resolver("arpo_tools", path_in_tools, replace=True)
