"""ARPO's configuration, and `arpo_trainer.yaml`, a preset over verl's `ppo_trainer`."""

from arpo_verl.config.arpo_config import ArpoConfig

__all__ = ["ArpoConfig"]
