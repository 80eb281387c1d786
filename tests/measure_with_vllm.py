"""Asks a real vLLM engine on CPU for entropies, as the measuring replica does, and prints what it gets as JSON.

VERL_PLATFORM=cpu python tests/measure_with_vllm.py MODEL '{"name": {"temperature": 1.0}, ...}'
"""

import asyncio
import json
import os
import sys
from uuid import uuid4

import verl  # noqa: F401  loads the plug-in, which names the CPU wheel for vLLM

from arpo_verl.integration.cpu_platform import CpuPlatform
from arpo_verl.integration.entropy_server import MeasuringEngine, _measured
from arpo_verl.integration.settings import ENTROPY_REQUEST

PROMPT = [260, 300, 301, 320, 262]


async def sample(model: str, cases: dict[str, dict]) -> dict[str, dict]:
    """Ask in the mode of log-probabilities that verl asks for: five tokens, the first three of them measured."""
    from vllm import SamplingParams
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    arguments = AsyncEngineArgs(
        model=model,
        dtype="float32",
        enforce_eager=True,
        distributed_executor_backend="uni",
        logprobs_mode="processed_logprobs",
    )
    engine = MeasuringEngine(AsyncLLM.from_engine_args(arguments))
    outputs = {}
    for name, parameters in cases.items():
        measured: dict = {}
        _measured.set(measured)
        request = {ENTROPY_REQUEST: {"tokens": 3, "top_k": 20, "is_truncated": False}}
        sampling = SamplingParams(max_tokens=5, logprobs=0, ignore_eos=True, extra_args=request, **parameters)
        prompt = {"prompt_token_ids": PROMPT}
        async for output in engine.generate(prompt=prompt, sampling_params=sampling, request_id=uuid4().hex):
            tokens = list(output.outputs[0].token_ids)
        outputs[name] = {"tokens": tokens, **measured}
    engine.shutdown()
    return outputs


if __name__ == "__main__":
    os.environ |= CpuPlatform().rollout_env_vars() | {"OMP_NUM_THREADS": "1"}
    print(json.dumps(asyncio.run(sample(sys.argv[1], json.loads(sys.argv[2])))))
