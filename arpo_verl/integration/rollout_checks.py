"""Checks of the estimator's name and of the rollout: verl's own, and whether the settings can branch at all."""

import copy
import difflib
import warnings

from omegaconf import DictConfig, OmegaConf, open_dict

from arpo_verl.config import ArpoConfig
from arpo_verl.integration.settings import ENTROPY_ROLLOUT, ESTIMATOR, arpo_config

VERL_ROLLOUT = "vllm"
"""verl's name of the rollout that `ENTROPY_ROLLOUT` is made of."""
DELTA_BACKEND = "delta_sharded"
SIMILARITY = 0.6
"""Of two names of which one is a misspelling (`difflib.get_close_matches`)."""


def check_estimator(config: DictConfig) -> None:
    """Refuse a misspelt estimator, which verl would notice only after the first rollout.

    A name that resembles none is let through: a trainer of somebody else's may register it later.

    Raises:
        ValueError: verl does not know the name, and knows a similar one.
    """
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, AdvantageEstimator

    name = str(getattr(config.algorithm.adv_estimator, "value", config.algorithm.adv_estimator))
    known = sorted({ESTIMATOR, *ADV_ESTIMATOR_REGISTRY, *(estimator.value for estimator in AdvantageEstimator)})
    if name in known or config.actor_rollout_ref.model.get("external_lib"):
        return  # verl imports that library, which may register an estimator, only in its workers
    if meant := near_name(name, known):
        raise ValueError(
            f"algorithm.adv_estimator={name!r} is not known to verl; expected one of {', '.join(known)}: "
            f"did you mean {meant}?"
        )


def near_name(name: str, known: list[str]) -> str | None:
    """Return the known name that a misspelt one resembles most, whatever its case and its separators; or None."""

    def plain(text: str) -> str:
        return "".join(letter for letter in text.casefold() if letter.isalnum())

    by_plain = {plain(candidate): candidate for candidate in known}
    near = difflib.get_close_matches(plain(name), by_plain, 3, SIMILARITY)
    # Letters that have only changed places say more than a letter that has become another.
    near.sort(key=lambda candidate: sorted(candidate) != sorted(plain(name)))
    return by_plain[near[0]] if near else None


def under_verls_name(config: DictConfig) -> DictConfig:
    """Return a configuration in which the rollout has verl's name, by which verl decides what it checks."""
    rollout = config.actor_rollout_ref.rollout
    if OmegaConf.is_missing(rollout, "name") or rollout.name != ENTROPY_ROLLOUT:
        return config
    renamed = copy.deepcopy(config)
    with open_dict(renamed):
        renamed.actor_rollout_ref.rollout.name = VERL_ROLLOUT
    return renamed


def check_verls_rollout(config: DictConfig) -> None:
    """Make verl's own checks of the rollout now, which it makes in a worker, and not for names that it does not know.

    Raises:
        ValueError: verl refuses the settings.
    """
    from verl.utils.config import omega_conf_to_dataclass

    rollout = under_verls_name(config).actor_rollout_ref.rollout
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the worker gives them too
            omega_conf_to_dataclass(rollout)
    except Exception as error:
        # verl asserts, raises NotImplementedError and ValueError; Hydra wraps them into one of its own.
        cause = error.__cause__ or error
        raise ValueError(
            f"verl refuses actor_rollout_ref.rollout: {cause}; expected settings that its vLLM rollout takes: "
            f"change what it names"
        ) from error


def check_weight_transfer(config: DictConfig) -> None:
    """Refuse the weight transfer whose receiver verl has for its own servers alone (`checkpoint_engine/base.py`).

    Raises:
        ValueError: the run's servers are ours.
    """
    rollout = config.actor_rollout_ref.rollout
    is_ours = rollout.name == ENTROPY_ROLLOUT or arpo_config(config).entropy_source == "topk"
    if is_ours and rollout.checkpoint_engine.backend == DELTA_BACKEND:
        raise ValueError(
            f"actor_rollout_ref.rollout.checkpoint_engine.backend={DELTA_BACKEND} with arpo.entropy_source='topk'; "
            f"expected 'surprisal', whose servers are verl's own and take it: set arpo.entropy_source=surprisal, or "
            f"another backend"
        )


def check_group(config: DictConfig) -> None:
    """Refuse a group of one leaf.

    Raises:
        ValueError: `rollout.n` is 1, verl's default, or no whole number above it.
    """
    leaves = config.actor_rollout_ref.rollout.n
    if isinstance(leaves, bool) or not isinstance(leaves, int) or leaves < 2:
        raise ValueError(
            f"actor_rollout_ref.rollout.n={leaves!r}; expected an integer of at least 2: one leaf has nothing to "
            f"branch into and no group to be compared with; the paper has 16"
        )


def no_branching(config: DictConfig) -> str | None:
    """Return why a run can't branch by its settings, so that it is GRPO under another name; None if it can."""
    arpo, rollout = arpo_config(config), config.actor_rollout_ref.rollout
    multi_turn = rollout.multi_turn
    if arpo.roots(rollout.n) == rollout.n:
        key = "arpo.initial_rollouts" if arpo.initial_rollouts is not None else "actor_rollout_ref.rollout.n"
        return f"{key}={rollout.n}: every leaf starts from the prompt"
    if arpo.branch_factor == 1:
        return "arpo.branch_factor=1: no path leaves a fork point but the parent's own"
    if arpo.max_tool_calls == 0:
        return "arpo.max_tool_calls=0: leaves fork after tool results alone"
    if not (multi_turn.tool_config_path or multi_turn.function_tool_path):
        return "no tool in actor_rollout_ref.rollout.multi_turn: leaves fork after tool results alone"
    return _never_forks(arpo)


def _never_forks(arpo: ArpoConfig) -> str | None:
    """Return why the rule never forks, whatever the entropies are."""
    if arpo.entropy_weight > 0:
        return None
    if arpo.rule == "threshold" and arpo.base_probability <= arpo.branch_threshold:
        return (
            f"arpo.rule=threshold with entropy_weight=0 and base_probability={arpo.base_probability}, which is not "
            f"above branch_threshold={arpo.branch_threshold}"
        )
    if arpo.rule != "threshold" and arpo.base_probability == 0:
        return "arpo.base_probability=0 with entropy_weight=0: every fork has the probability 0"
    return None
