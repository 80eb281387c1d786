"""Whether a run packs its rows, as its configuration says it."""

from omegaconf import DictConfig

from arpo_verl.integration.settings import RunParts, arpo_config

ENGINES = ("fsdp", "fsdp2")
"""Values of `strategy` whose engines of verl's can pack."""


def packing_mode(config: DictConfig) -> str:
    """Return `auto`, `on` or `off` (`arpo.pack_trees`).

    A run that grows no trees and does not name the key computes rows, so that the plug-in changes nothing in it.
    """
    is_named = "pack_trees" in (config.get("arpo") or {})
    if not is_named and not RunParts.of(config).grows_trees:
        return "off"
    return arpo_config(config).packing


def other_engines(config: DictConfig) -> list[str]:
    """Return the engines of a run that compute rows whatever is asked for, as `key=value`."""
    keys = {"actor_rollout_ref.actor.strategy": config.actor_rollout_ref.actor.strategy}
    if config.critic.get("enable"):
        keys["critic.strategy"] = config.critic.strategy
    return [f"{key}={value}" for key, value in keys.items() if value not in ENGINES]
