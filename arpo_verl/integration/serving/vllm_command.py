"""vLLM's OpenAI server with the settings of a verl configuration.

`python -m arpo_verl.integration.serving.vllm_command JSON` runs it; JSON is what `server_arguments` returns, and where
to listen. What verl sets for the sake of training (sleep mode, weights that are filled in later) is left out.
"""

import json
import runpy
import sys
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

SERVER = "vllm.entrypoints.openai.api_server"


def server_arguments(config: DictConfig, model: str) -> dict[str, Any]:
    """Return vLLM's arguments as verl's server has them (verl 0.9.1, `vllm_async_server.py`, `launch_server`).

    Args:
        config: verl's configuration.
        model: the name under which the model is served.
    """
    rollout, settings = config.actor_rollout_ref.rollout, config.actor_rollout_ref.model
    same_name = (
        "dtype",
        "max_model_len",
        "max_num_seqs",
        "enable_chunked_prefill",
        "max_num_batched_tokens",
        "enable_prefix_caching",
        "enforce_eager",
        "gpu_memory_utilization",
        "seed",
    )
    engine = OmegaConf.to_container(rollout.engine_kwargs.get("vllm") or OmegaConf.create(), resolve=True)
    assert isinstance(engine, dict)
    return {
        "model": settings.path,
        "served_model_name": model,
        "trust_remote_code": settings.trust_remote_code,
        "tensor_parallel_size": rollout.tensor_model_parallel_size,
        # A `max_new_tokens` of the model's own would cut responses (vLLM takes it as an upper limit).
        "override_generation_config": json.dumps({"max_new_tokens": rollout.response_length}),
        "disable_uvicorn_access_log": True,
        **{name: rollout[name] for name in same_name},
        **engine,
    }


def environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the server's processes, which is that of this one and more."""
    variables = dict(inherited, VLLM_NO_USAGE_STATS="1")
    if inherited.get("VERL_PLATFORM") == "cpu":
        from arpo_verl.integration.cpu.platform import CpuPlatform

        variables |= CpuPlatform().rollout_env_vars()
    return variables


def main() -> None:
    """Become vLLM's server."""
    import verl  # noqa: F401  loads the plug-in, which names the CPU wheel for vLLM
    from verl.workers.rollout.vllm_rollout.utils import build_cli_args_from_config

    sys.argv = [SERVER, *build_cli_args_from_config(json.loads(sys.argv[1]))]
    runpy.run_module(SERVER, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
