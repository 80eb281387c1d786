"""Fills a preset's settings into a configuration, in which keys that the user has set win."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from arpo_verl.config import ArpoConfig
from arpo_verl.presets import Preset, load_preset

logger = logging.getLogger(__name__)

PRESET, FILLED = "arpo.preset", "arpo.filled_preset"
ESTIMATOR = "algorithm.adv_estimator"
KWARGS = "_kwargs"
"""What the key of a part's settings ends with: `arpo.rule_kwargs` are those of `arpo.rule`."""
PARTS = {"arpo.turn_reward_kwargs": "arpo.turn_rewards", "arpo.hint_kwargs": "arpo.hints"}
"""Parts whose keys have another ending."""
VERLS_DEFAULTS: Mapping[str, Sequence[Any]] = {
    ESTIMATOR: ("gae", "arpo"),
    "algorithm.norm_adv_by_std_in_grpo": (True,),
    "actor_rollout_ref.actor.loss_agg_mode": ("token-mean",),
    "actor_rollout_ref.actor.entropy_coeff": (0,),
    "reward.custom_reward_function.path": (None, "pkg://arpo_verl.reward"),
    "reward.custom_reward_function.name": ("compute_score",),
}
"""The values that the keys outside of the group `arpo` have where nobody sets them: verl's, and arpo_trainer's."""


def fill_preset(config: DictConfig, overrides: Sequence[str] | None = None) -> None:
    """Write the settings of `arpo.preset` into a configuration, in place, and log them; without one do nothing.

    A key counts as set by the user if an override names it, or if it has another value than the default. Settings of a
    part (`arpo.rule_kwargs`) are merged, the user's over the preset's; where the user has chosen another part, the
    preset's settings of it are left out. `arpo.preset` becomes `arpo.filled_preset`, so that it is done once.

    Args:
        config: verl's, composed.
        overrides: of the command line; None takes Hydra's, where it runs.

    Raises:
        ValueError: there is no such preset, it can't be run, or it needs another estimator than the one that is set.
    """
    name = OmegaConf.select(config, PRESET)
    if name is None:
        return
    preset = load_preset(str(name))
    if preset.unavailable:
        raise ValueError(f"arpo.preset={name} can't be run: {preset.unavailable}; expected another one: change it")
    given = _keys(overrides if overrides is not None else _overrides_of_hydra())
    _require_estimator(config, preset, given)
    filled: dict[str, Any] = {}
    kept: dict[str, Any] = {}
    for key, value in preset.settings.items():
        current = OmegaConf.select(config, key)
        if isinstance(value, Mapping):
            part = PARTS.get(key, key.removesuffix(KWARGS))
            own: Any = OmegaConf.to_container(current, resolve=True) if current else {}
            is_another = _is_set(config, part, given) and OmegaConf.select(config, part) != preset.settings.get(part)
            target, value = (kept, own) if is_another else (filled, {**value, **own})
        elif _is_set(config, key, given):
            target, value = kept, current
        else:
            target = filled
        target[key] = value
    _write(config, {**filled, FILLED: name, PRESET: None})
    _log(preset, filled, kept)


def _overrides_of_hydra() -> list[str]:
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def _keys(overrides: Sequence[str]) -> set[str]:
    """Return the keys that overrides name, without those that they delete."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    named = [(one.key_or_group, one.value()) for one in parsed if not one.is_delete()]
    return {key for name, value in named for key in _keys_in(name, value)}


def _keys_in(name: str, value: Any) -> Iterator[str]:
    """Yield a key and, where its value is a mapping, those in it."""
    yield name
    if isinstance(value, dict):
        for inner, one in value.items():
            yield from _keys_in(f"{name}.{inner}", one)


def _is_set(config: DictConfig, key: str, given: set[str]) -> bool:
    """Whether the user has set a key. Of one whose default is not known here, only an override tells."""
    current, defaults = OmegaConf.select(config, key), _defaults(key)
    return key in given or (current is not None and defaults is not None and current not in defaults)


def _defaults(key: str) -> Sequence[Any] | None:
    group, _, name = key.rpartition(".")
    return [getattr(ArpoConfig(), name, None)] if group == "arpo" else VERLS_DEFAULTS.get(key)


def _require_estimator(config: DictConfig, preset: Preset, given: set[str]) -> None:
    """Check that the advantage can be the preset's.

    Raises:
        ValueError: another estimator has been set, with which the preset would be another algorithm.
    """
    wanted, got = preset.settings.get(ESTIMATOR), OmegaConf.select(config, ESTIMATOR)
    if wanted is not None and got != wanted and _is_set(config, ESTIMATOR, given):
        raise ValueError(
            f"{ESTIMATOR}={got} with arpo.preset={preset.name}; expected {wanted}, which this preset is made of: leave "
            f"{ESTIMATOR} out, or the preset"
        )


def _write(config: DictConfig, values: Mapping[str, Any]) -> None:
    with open_dict(config):
        for key, value in values.items():
            OmegaConf.update(config, key, value, merge=False, force_add=True)


def _log(preset: Preset, filled: Mapping[str, Any], kept: Mapping[str, Any]) -> None:
    paper = f" (arXiv {preset.paper})" if preset.paper else ""
    settings = ", ".join(f"{key}={value}" for key, value in filled.items()) or "nothing"
    others = f"; as you set them: {', '.join(f'{key}={value}' for key, value in kept.items())}" if kept else ""
    logger.warning("arpo.preset=%s is %s%s, which sets %s%s", preset.name, preset.title, paper, settings, others)
