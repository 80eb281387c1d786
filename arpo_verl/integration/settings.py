"""Reads ARPO's settings from a verl configuration."""

from omegaconf import DictConfig, OmegaConf

from arpo_verl.config import ArpoConfig

ESTIMATOR = "arpo"


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
