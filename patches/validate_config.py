"""Patch that has a configuration checked before Ray starts."""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import wrapt


def check_config_too(verl_config: ModuleType, check: Callable[[Any], Any]) -> None:
    """Let `verl.utils.config.validate_config` call a check of ours first; may be called again.

    verl 0.9.1 (`trainer/main_ppo.py`) validates the configuration in the driver, before `ray.init`, and offers no hook
    there. Without this, bad input surfaces minutes later in a remote worker.

    Args:
        verl_config: verl's module.
        check: gets the configuration and returns the one that verl is to look at.
    """
    if isinstance(verl_config.validate_config, wrapt.FunctionWrapper):
        return

    def validate_config(stock: Any, instance: None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = kwargs["config"] if "config" in kwargs else args[0]
        before = given.algorithm.adv_estimator
        config = check(given)
        if given.algorithm.adv_estimator != before:
            kwargs = kwargs | _needs(config, kwargs)
        if "config" in kwargs:
            return stock(*args, **kwargs | {"config": config})
        return stock(config, *args[1:], **kwargs)

    wrapt.wrap_function_wrapper(verl_config, "validate_config", validate_config)


def _needs(config: Any, kwargs: Mapping[str, Any]) -> dict[str, bool]:
    """Return what verl has told of the estimator before, told of the one that the check has filled in."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy

    needs = {"use_critic": need_critic, "use_reference_policy": need_reference_policy}
    return {name: need(config) for name, need in needs.items() if name in kwargs}
