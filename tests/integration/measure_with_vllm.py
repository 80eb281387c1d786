"""Asks a real vLLM engine on CPU for entropies, as the measuring replica does, and for scores of given tokens, as the
information gain does; prints what it gets as JSON.

VERL_PLATFORM=cpu python tests/integration/measure_with_vllm.py MODEL '{"name": {"temperature": 1.0}, ...}' \
    '[{"context": [1, 2], "scored": [3, 4], "last": 1}, ...]'
"""

import asyncio
import json
import os
import sys
from types import SimpleNamespace
from uuid import uuid4

import verl  # noqa: F401  loads the plug-in, which names the CPU wheel for vLLM

from arpo_verl.integration.cpu.platform import CpuPlatform
from arpo_verl.integration.serving.scoring import ScoringClient
from arpo_verl.integration.serving.servers.vllm import Vllm
from arpo_verl.integration.serving.vllm_names import ENTROPY_REQUEST
from arpo_verl.integration.serving.vllm_replica import MeasuringEngine, _measured

PROMPT = [260, 300, 301, 320, 262]


class Client:
    """verl's client with its server, as far as a scoring request meets them (verl 0.9.1, `vllm_async_server.py`)."""

    def __init__(self, engine: MeasuringEngine) -> None:
        self._engine = engine
        self.cached: list[int] = []
        """Of each request, the number of its tokens that were in the prefix cache."""

    async def generate(self, request_id: str, *, prompt_ids: list[int], sampling_params: dict) -> SimpleNamespace:
        from verl.workers.rollout.vllm_rollout.utils import extract_prompt_logprobs
        from vllm import SamplingParams

        parameters = SamplingParams(**sampling_params)
        prompt = {"prompt_token_ids": prompt_ids}
        _measured.set({})
        answers = self._engine.generate(prompt=prompt, sampling_params=parameters, request_id=uuid4().hex)
        output = [one async for one in answers][-1]
        fields: dict = {"num_cached_tokens": output.num_cached_tokens}
        self.cached.append(output.num_cached_tokens)
        extract_prompt_logprobs(output, parameters.prompt_logprobs, fields)
        return SimpleNamespace(extra_fields=fields)


async def score(engine: MeasuringEngine, requests: list[dict]) -> list[dict]:
    """Score tokens after contexts, one request after the other, so that each meets the cache of those before."""
    found = []
    for request in requests:
        client = Client(engine)
        scoring = ScoringClient(client, Vllm(), "prompt")
        log_probs = await scoring.log_probs(request["context"], request["scored"], request["last"], "root")
        found.append({"log_probs": log_probs, "cached": client.cached})
    return found


async def sample(model: str, cases: dict[str, dict], requests: list[dict]) -> dict:
    """Ask in the mode of log-probabilities that verl asks for: five tokens, the first three of them measured.

    Small blocks and batches, so that short contexts too are cached in part and computed in chunks.
    """
    from vllm import SamplingParams
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    arguments = AsyncEngineArgs(
        model=model,
        dtype="float32",
        enforce_eager=True,
        distributed_executor_backend="uni",
        logprobs_mode="processed_logprobs",
        block_size=16,
        max_num_batched_tokens=64,
        max_num_seqs=8,
        enable_chunked_prefill=True,
        enable_prefix_caching=True,
    )
    engine = MeasuringEngine(AsyncLLM.from_engine_args(arguments))
    outputs: dict = {}
    for name, parameters in cases.items():
        measured: dict = {}
        _measured.set(measured)
        request = {ENTROPY_REQUEST: {"tokens": 3, "top_k": 20, "is_truncated": False}}
        sampling = SamplingParams(max_tokens=5, logprobs=0, ignore_eos=True, extra_args=request, **parameters)
        prompt = {"prompt_token_ids": PROMPT}
        async for output in engine.generate(prompt=prompt, sampling_params=sampling, request_id=uuid4().hex):
            tokens = list(output.outputs[0].token_ids)
        outputs[name] = {"tokens": tokens, **measured}
    scores = await score(engine, requests)
    engine.shutdown()
    return {"measured": outputs, "scores": scores}


if __name__ == "__main__":
    os.environ |= CpuPlatform().rollout_env_vars() | {"OMP_NUM_THREADS": "1"}
    print(json.dumps(asyncio.run(sample(sys.argv[1], *map(json.loads, sys.argv[2:4])))))
