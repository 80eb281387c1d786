"""Samples with seeds from a real vLLM engine on CPU whose batches hold one prompt, and prints the tokens as JSON.

VERL_PLATFORM=cpu python tests/patches/cut_prefill_with_vllm.py MODEL

Each prompt is asked for alone, in a batch that holds it whole, and with all others at once, where prefills are cut.
"""

import asyncio
import json
import os
import sys
from uuid import uuid4

import verl  # noqa: F401  loads the plug-in, which names the CPU wheel for vLLM

from arpo_verl.integration.cpu.platform import CpuPlatform

PROMPTS = [[260 + (7 * row + column) % 130 for column in range(40 + row)] for row in range(6)]
BATCH = 64
"""Tokens of a batch; two prompts do not fit into one."""


async def sample(model: str) -> dict[str, list[list[int]]]:
    from vllm import SamplingParams
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    arguments = AsyncEngineArgs(
        model=model,
        dtype="float32",
        enforce_eager=True,
        distributed_executor_backend="uni",
        logprobs_mode="processed_logprobs",
        max_num_batched_tokens=BATCH,
        max_num_seqs=BATCH,
        enable_chunked_prefill=True,
        enable_prefix_caching=False,
    )
    engine = AsyncLLM.from_engine_args(arguments)

    async def tokens(row: int) -> list[int]:
        parameters = SamplingParams(max_tokens=8, temperature=1.0, seed=row, ignore_eos=True)
        prompt = {"prompt_token_ids": PROMPTS[row]}
        found: list[int] = []
        async for output in engine.generate(prompt=prompt, sampling_params=parameters, request_id=uuid4().hex):
            found = list(output.outputs[0].token_ids)
        return found

    alone = [await tokens(row) for row in range(len(PROMPTS))]
    together = await asyncio.gather(*(tokens(row) for row in range(len(PROMPTS))))
    engine.shutdown()
    return {"alone": alone, "together": list(together)}


if __name__ == "__main__":
    os.environ.update(CpuPlatform().rollout_env_vars())
    print(json.dumps(asyncio.run(sample(sys.argv[1]))))
