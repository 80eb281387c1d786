"""What verl imports in every process (entry point `verl.plugins`): registrations, nothing heavy, nothing printed.

verl imports the module and calls nothing, so the module body does the work. Registries that live in modules which
`import verl` does not load are filled when verl itself imports those modules, so that the plug-in costs next to
nothing in processes that do not need it. verl logs a failing plug-in at DEBUG level only (`verl/__init__.py`); here it
is logged as an error, with its traceback, and raised again.
"""

import logging
import os
from collections.abc import Callable
from types import ModuleType

from arpo_verl.integration.settings import ENTROPY_ROLLOUT, ESTIMATOR, TAG_AGENT, TAG_FORMAT, register_resolver

logger = logging.getLogger(__name__)


def _register_estimator(core_algos: ModuleType) -> None:
    from arpo_verl.integration.advantage import estimate_arpo_advantage

    core_algos.register_adv_est(ESTIMATOR)(estimate_arpo_advantage)


def _register_trainers(trainers: ModuleType) -> None:
    from arpo_verl.integration.trainer import register_arpo_trainers

    register_arpo_trainers()


def _register_tool_call_format(tool_parser: ModuleType) -> None:
    from arpo_verl.integration.tool_parser import TagToolParser

    tool_parser.ToolParser.register(TAG_FORMAT)(TagToolParser)


def _register_agent_loop(agent_loop: ModuleType) -> None:
    # By name, as in verl's own registry, so that the class is imported where a rollout runs and nowhere else.
    target = {"_target_": "arpo_verl.integration.agent_loop.TreeAgentLoop"}
    agent_loop._agent_loop_registry.setdefault(TAG_AGENT, target)


def _register_weight_sync(rollouts: ModuleType) -> None:
    # How the trainer's weights reach the servers: as for verl's own vLLM rollout.
    rollouts._ROLLOUT_REGISTRY[(ENTROPY_ROLLOUT, "async")] = rollouts._ROLLOUT_REGISTRY[("vllm", "async")]


def _register_replica(replicas: ModuleType) -> None:
    def load() -> type:
        from arpo_verl.integration.entropy_server import EntropyReplica

        return EntropyReplica

    replicas.RolloutReplicaRegistry.register(ENTROPY_ROLLOUT, load)


def _check_config_before_ray(verl_config: ModuleType) -> None:
    from arpo_patches.validate_config import check_arpo_config_too

    check_arpo_config_too(verl_config)


def _accept_own_tools(tool_registry: ModuleType) -> None:
    from arpo_patches.own_tools import accept_own_tools

    accept_own_tools(tool_registry)


HOOKS: dict[str, Callable[[ModuleType], None]] = {
    "verl.trainer.ppo.core_algos": _register_estimator,
    "verl.trainer.ppo.v1": _register_trainers,
    "verl.experimental.agent_loop.tool_parser": _register_tool_call_format,
    "verl.experimental.agent_loop.agent_loop": _register_agent_loop,
    "verl.workers.rollout.base": _register_weight_sync,
    "verl.workers.rollout.replica": _register_replica,
    "verl.utils.config": _check_config_before_ray,
    "verl.tools.tool_registry": _accept_own_tools,
}


def register() -> None:
    """Make `arpo` known to verl. Idempotent: verl registers a name once per process."""
    from wrapt import register_post_import_hook

    for module_name, hook in HOOKS.items():
        register_post_import_hook(hook, module_name)
    register_resolver()
    if os.environ.get("VERL_PLATFORM") == "cpu":
        from arpo_verl.integration.cpu_platform import use_cpu_platform

        use_cpu_platform()


try:
    register()
except Exception:
    logger.exception("arpo-verl could not register itself with verl; algorithm.adv_estimator=arpo will not be known")
    raise
