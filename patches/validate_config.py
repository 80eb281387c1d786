"""Patch that checks ARPO's settings before Ray starts."""

from types import ModuleType
from typing import Any

import wrapt
from omegaconf import OmegaConf


def check_arpo_config_too(verl_config: ModuleType) -> None:
    """Let `verl.utils.config.validate_config` check an ARPO run first.

    verl 0.9.1 (`trainer/main_ppo.py`) validates the configuration in the driver, before `ray.init`, and offers no hook
    there. Without this, bad input surfaces minutes later in a remote worker. Of a run that does not set
    adv_estimator=arpo only the estimator's name is looked at, for a misspelling, and tags and checkpoint where
    its rollout is `tag_agent`. verl's own checks see verl's name of the rollout, on which some of them depend.
    """
    if isinstance(verl_config.validate_config, wrapt.FunctionWrapper):
        return

    def validate_config(stock: Any, instance: None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        from arpo_verl.integration.preflight import check
        from arpo_verl.integration.resume_check import check_resume
        from arpo_verl.integration.rollout_checks import check_estimator, under_verls_name
        from arpo_verl.integration.settings import TAG_AGENT, wants_arpo
        from arpo_verl.integration.tag_check import check_tags_of_run

        config = kwargs["config"] if "config" in kwargs else args[0]
        check_estimator(config)
        if wants_arpo(config):
            check(config)
        elif OmegaConf.select(config, "actor_rollout_ref.rollout.agent.default_agent_loop") == TAG_AGENT:
            check_tags_of_run(config)
            check_resume(config)
        renamed = under_verls_name(config)
        if "config" in kwargs:
            return stock(*args, **kwargs | {"config": renamed})
        return stock(renamed, *args[1:], **kwargs)

    wrapt.wrap_function_wrapper(verl_config, "validate_config", validate_config)
