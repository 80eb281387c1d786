"""Checks of the estimator's name and of the rollout: verl's own, and whether the settings can branch at all."""

import difflib
import warnings

from omegaconf import DictConfig

from arpo_verl.integration.serving.server import under_verls_name
from arpo_verl.integration.settings import ESTIMATOR, TAG_FORMAT, arpo_config
from arpo_verl.rollout.tree import Tree
from arpo_verl.rules import build_rule

OWN_ESTIMATORS = (ESTIMATOR,)
SIMILARITY = 0.75
"""The similarity of two names from which one may be a misspelling of the other (`difflib.get_close_matches`)."""


def check_estimator(config: DictConfig) -> str | None:
    """Refuse a misspelling of our own estimator, which verl would notice only after the first rollout.

    Returns:
        a warning where nothing that is loaded here knows the name, which a trainer or a library of somebody else's may
        register in the workers; else None.

    Raises:
        ValueError: the name is a misspelling of one of `OWN_ESTIMATORS`.
    """
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, AdvantageEstimator

    name = str(getattr(config.algorithm.adv_estimator, "value", config.algorithm.adv_estimator))
    known = sorted({*OWN_ESTIMATORS, *ADV_ESTIMATOR_REGISTRY, *(estimator.value for estimator in AdvantageEstimator)})
    if name in known or config.actor_rollout_ref.model.get("external_lib"):
        return None  # verl imports that library, which may register an estimator, only in its workers
    problem = f"algorithm.adv_estimator={name!r} is not known to verl; expected one of {', '.join(known)}"
    if meant := next((own for own in OWN_ESTIMATORS if is_misspelling(name, own)), None):
        raise ValueError(f"{problem}: did you mean {meant}?")
    near = difflib.get_close_matches(_plain(name), {_plain(candidate): candidate for candidate in known}, 1, SIMILARITY)
    hint = "".join(f" Did you mean {candidate}?" for candidate in known if _plain(candidate) in near)
    return (
        f"{problem}, or a name that actor_rollout_ref.model.external_lib registers: else the run ends after its first "
        f"rollout.{hint}"
    )


def is_misspelling(name: str, own: str) -> bool:
    """Whether a name is one of ours with a slip that hardly makes another method's name.

    That is another case, separators or a number behind it, two neighbouring letters exchanged, one of its own letters
    once more, or one of its last two left out. Another letter is no slip: of GRPO it makes GSPO, of ARPO AEPO.

    >>> [is_misspelling(name, "arpo") for name in ("ARPO-2", "apro", "arrpo", "arp", "dapo", "aepo", "gigpo")]
    [True, True, True, True, False, False, False]
    """
    plain, meant = _plain(name).rstrip("0123456789"), _plain(own)
    slips = {meant, meant[:-1], meant[:-2] + meant[-1]}
    for i in range(len(meant) - 1):
        slips.add(meant[:i] + meant[i + 1] + meant[i] + meant[i + 2 :])
    slips.update(meant[:i] + letter + meant[i:] for i in range(len(meant) + 1) for letter in meant)
    return plain in slips


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


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
            f"verl refuses actor_rollout_ref.rollout: {cause}; expected settings that its {rollout.name} rollout "
            f"takes: change what it names"
        ) from error


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


def check_rule(config: DictConfig) -> None:
    """Check that the branching rule can be made, that its numbers fit n, and that the rewards it needs come in time.

    Raises:
        ValueError: one of these is not so.
    """
    rule = build_rule(arpo_config(config))
    rule.check_leaves(config.actor_rollout_ref.rollout.n)
    judge = config.reward.reward_model
    # verl 0.9.1: `RewardLoopManager.reward_loop_worker_handles`; such a model's scores come after the rollout.
    if rule.needs_rewards and judge.enable and not judge.enable_resource_pool:
        raise ValueError(
            "reward.reward_model.enable_resource_pool=False with a branching rule that looks at rewards while trees "
            "grow (arpo.rule_kwargs.gate); expected a reward function, or a reward model with GPUs of its own: set "
            "reward.reward_model.enable_resource_pool=True, or another gate"
        )


def no_branching(config: DictConfig) -> str | None:
    """Return why a run can't branch by its settings, so that it is GRPO under another name; None if it can."""
    arpo, rollout = arpo_config(config), config.actor_rollout_ref.rollout
    multi_turn = rollout.multi_turn
    rule = build_rule(arpo)
    if rule.new_roots(Tree(rollout.n, rule_state=rule.tree_state())) >= rollout.n:
        key = "arpo.initial_rollouts" if arpo.initial_rollouts is not None else "actor_rollout_ref.rollout.n"
        return f"{key}={rollout.n}: every leaf starts from the prompt"
    if arpo.max_tool_calls == 0:
        return "arpo.max_tool_calls=0: leaves fork after tool results alone"
    if not (multi_turn.tool_config_path or multi_turn.function_tool_path):
        return "no tool in actor_rollout_ref.rollout.multi_turn: leaves fork after tool results alone"
    return rule.never_forks()


def check_format(name: str) -> None:
    """Check how calls are written (`actor_rollout_ref.rollout.multi_turn.format`).

    Raises:
        ValueError: verl has no parser of this name.
    """
    if name == TAG_FORMAT:
        return  # ours: verl's own formats take seconds to import
    from verl.experimental.agent_loop.tool_parser import ToolParser

    formats = sorted(ToolParser._registry)
    if name not in formats:
        raise ValueError(
            f"actor_rollout_ref.rollout.multi_turn.format={name!r}; expected one of {', '.join(formats)}: change it"
        )
