"""Patch that checks ARPO's settings before Ray starts."""

from types import ModuleType
from typing import Any

import wrapt
from omegaconf import OmegaConf


def check_arpo_config_too(verl_config: ModuleType) -> None:
    """Let `verl.utils.config.validate_config` check an ARPO run first.

    verl 0.9.1 (`trainer/main_ppo.py`) validates the configuration in the driver, before `ray.init`, and offers no hook
    there. Without this, bad input surfaces minutes later in a remote worker. Of a run of another algorithm whose
    rollout is `tag_agent` the tags alone are checked; all others are passed through.
    """
    if isinstance(verl_config.validate_config, wrapt.FunctionWrapper):
        return

    def validate_config(stock: Any, instance: None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        from arpo_verl.integration.preflight import check
        from arpo_verl.integration.settings import TAG_AGENT, wants_arpo
        from arpo_verl.integration.tag_check import check_tags_of_run

        config = kwargs["config"] if "config" in kwargs else args[0]
        if wants_arpo(config):
            check(config)
        elif OmegaConf.select(config, "actor_rollout_ref.rollout.agent.default_agent_loop") == TAG_AGENT:
            check_tags_of_run(config)
        return stock(*args, **kwargs)

    wrapt.wrap_function_wrapper(verl_config, "validate_config", validate_config)
