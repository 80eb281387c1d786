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
    return ArpoConfig.from_mapping({} if group is None else OmegaConf.to_container(group, resolve=True))
