"""What verl imports in every process (entry point `verl.plugins`): registrations, nothing heavy, nothing printed.

verl imports the module and calls nothing, so the module body does the work. Registries that live in modules which
`import verl` does not load are filled when verl itself imports those modules, so that the plug-in costs next to
nothing in processes that do not need it. verl logs a failing plug-in at DEBUG level only (`verl/__init__.py`), and a
user then reads that the estimator is not known; here it is logged as an error, with its traceback, and raised again.
Everything of ours is imported inside functions, so that this holds for imports too.
"""

import functools
import logging
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

logger = logging.getLogger(__name__)

ADVICE = (
    "runs with algorithm.adv_estimator=arpo will end with an unknown estimator or another error that is not the cause: "
    "mend what the traceback below names, and see `arpo-verl doctor`"
)


def _register_estimator(core_algos: ModuleType) -> None:
    from arpo_verl.integration.settings import ESTIMATOR
    from arpo_verl.integration.training.advantage import estimate_arpo_advantage

    core_algos.register_adv_est(ESTIMATOR)(estimate_arpo_advantage)


def _register_estimator_and_losses(core_algos: ModuleType) -> None:
    from arpo_verl.integration.training.policy_loss import register_losses

    _register_estimator(core_algos)
    register_losses(core_algos)


def _register_trainers(trainers: ModuleType) -> None:
    from arpo_verl.integration.training.trainer import register_arpo_trainers

    register_arpo_trainers()


def _register_tool_call_format(tool_parser: ModuleType) -> None:
    from arpo_verl.integration.rollout.tool_parser import TagToolParser
    from arpo_verl.integration.settings import TAG_FORMAT

    tool_parser.ToolParser.register(TAG_FORMAT)(TagToolParser)


def _register_agent_loop(agent_loop: ModuleType) -> None:
    from arpo_verl.integration.settings import TAG_AGENT

    # By name, as in verl's own registry, so that the class is imported where a rollout runs and nowhere else.
    target = {"_target_": "arpo_verl.integration.rollout.agent_loop.TreeAgentLoop"}
    agent_loop._agent_loop_registry.setdefault(TAG_AGENT, target)


def _register_weight_transfer(rollouts: ModuleType) -> None:
    from arpo_verl.integration.serving.server import all_servers

    for server in all_servers():
        server.register_weight_transfer(rollouts)


def _register_replicas(replicas: ModuleType) -> None:
    from arpo_verl.integration.serving.server import all_servers

    for server in all_servers():
        server.register_replica(replicas)


def _check_config_before_ray(verl_config: ModuleType) -> None:
    from arpo_patches.validate_config import check_config_too

    def check(config: Any) -> Any:
        from arpo_verl.preflight.checks import check_before_ray

        return check_before_ray(config)

    check_config_too(verl_config, check)


def _accept_own_tools(tool_registry: ModuleType) -> None:
    from arpo_patches.own_tools import accept_own_tools, accept_several_tools

    def wrapper() -> type:
        from arpo_verl.integration.rollout.own_tools import OwnTool

        return OwnTool

    accept_own_tools(tool_registry, wrapper)
    accept_several_tools(tool_registry)


def _accept_empty_mini_batches(losses: ModuleType) -> None:
    from arpo_patches.empty_mini_batch import divide_by_one_token_at_least

    divide_by_one_token_at_least(losses)


def _pack_in_engines(engines: ModuleType) -> None:
    from arpo_verl.integration.packing.engine import pack_in_engines

    pack_in_engines(engines)


HOOKS: dict[str, Callable[[ModuleType], None]] = {
    "verl.trainer.ppo.core_algos": _register_estimator_and_losses,
    "verl.trainer.ppo.v1": _register_trainers,
    "verl.experimental.agent_loop.tool_parser": _register_tool_call_format,
    "verl.experimental.agent_loop.agent_loop": _register_agent_loop,
    "verl.workers.rollout.base": _register_weight_transfer,
    "verl.workers.rollout.replica": _register_replicas,
    "verl.utils.config": _check_config_before_ray,
    "verl.tools.tool_registry": _accept_own_tools,
    "verl.workers.utils.losses": _accept_empty_mini_batches,
    "verl.workers.engine": _pack_in_engines,
}


def _reported(hook: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    """Return a hook that logs its failure: whoever imports the module may swallow it, and the next import succeeds."""

    @functools.wraps(hook)
    def run(module: ModuleType) -> None:
        try:
            hook(module)
        except Exception:
            logger.exception("arpo-verl could not add itself to %s; %s", module.__name__, ADVICE)
            raise

    return run


def register() -> None:
    """Make `arpo` known to verl. Idempotent: verl registers a name once per process."""
    from wrapt import register_post_import_hook

    from arpo_verl.integration.settings import register_resolver

    for module_name, hook in HOOKS.items():
        register_post_import_hook(_reported(hook), module_name)
    register_resolver()
    if os.environ.get("VERL_PLATFORM") == "cpu":
        from arpo_verl.integration.cpu.platform import use_cpu_platform

        use_cpu_platform()


try:
    register()
except Exception:
    logger.exception("arpo-verl could not register itself with verl; %s", ADVICE)
    raise
