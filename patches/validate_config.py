"""Patch that checks ARPO's settings before Ray starts."""

from types import ModuleType
from typing import Any

import wrapt


def check_arpo_config_too(verl_config: ModuleType) -> None:
    """Let `verl.utils.config.validate_config` check an ARPO run first.

    verl 0.9.1 (`trainer/main_ppo.py`) validates the configuration in the driver, before `ray.init`, and offers no hook
    there. Without this, bad input surfaces minutes later in a remote worker. Runs that do not set adv_estimator=arpo
    are passed through.
    """
    if isinstance(verl_config.validate_config, wrapt.FunctionWrapper):
        return

    def validate_config(stock: Any, instance: None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        from arpo_verl.integration.preflight import check
        from arpo_verl.integration.settings import wants_arpo

        config = kwargs["config"] if "config" in kwargs else args[0]
        if wants_arpo(config):
            check(config)
        return stock(*args, **kwargs)

    wrapt.wrap_function_wrapper(verl_config, "validate_config", validate_config)
