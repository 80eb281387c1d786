"""What watching the entropy costs: a real vLLM engine on CPU, the tiny model, tools that answer at once.

VERL_PLATFORM=cpu python tests/benchmarks/probe.py [WORLD]      WORLD is a folder that arpo_verl.tiny_world made

All variants in turns in one process, medians. `no branching` asks for whole turns and no entropies; the others grow
trees, with one request a turn (`segment`) or with one for the first k tokens and one for the rest (`probe`).
"""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import uuid4

import pandas
import verl  # noqa: F401  loads the plug-in, which names the CPU wheel for vLLM
from transformers import AutoTokenizer

from arpo_verl.config import ArpoConfig
from arpo_verl.integration.cpu.platform import CpuPlatform
from arpo_verl.integration.serving.server import ENTROPIES
from arpo_verl.integration.serving.vllm_names import ENTROPY_REQUEST
from arpo_verl.integration.serving.vllm_replica import MeasuringEngine, _measured
from arpo_verl.rollout.protocols import Generation, GenerationRequest, ToolAnswer
from arpo_verl.rollout.scheduler import PromptRollout
from arpo_verl.rollout.tag_syntax import Tags, TagSyntax
from arpo_verl.rollout.tree import Leaf
from arpo_verl.rollout.turns import RolloutServices, RolloutSettings
from arpo_verl.rules import build_rule

PROMPTS, LEAVES, ROUNDS = 16, 8, 3
K = 4
"""Probe tokens: the tiny model's turns have about ten."""
VARIANTS = {
    "no branching": (LEAVES, ArpoConfig(entropy_source="surprisal")),
    "surprisal, segment": (
        LEAVES // 2,
        ArpoConfig(entropy_source="surprisal", branch_timing="segment", probe_tokens=K),
    ),
    "surprisal, probe": (LEAVES // 2, ArpoConfig(entropy_source="surprisal", probe_tokens=K)),
    "topk, segment": (LEAVES // 2, ArpoConfig(branch_timing="segment", probe_tokens=K)),
    "topk, probe": (LEAVES // 2, ArpoConfig(probe_tokens=K)),
}


@dataclass
class LocalEngine:
    """The scheduler's `Engine` over vLLM in this process, measuring as the replica does."""

    engine: MeasuringEngine
    stop: list[str]
    requests: int = 0

    async def generate(self, request: GenerationRequest) -> Generation:
        from vllm import SamplingParams

        self.requests += 1
        entropy = {"tokens": request.entropy_tokens, "top_k": 20, "is_truncated": False}
        parameters = SamplingParams(
            max_tokens=request.max_tokens,
            temperature=1.0,
            logprobs=0,
            stop=self.stop,
            include_stop_str_in_output=True,
            extra_args={ENTROPY_REQUEST: entropy} if request.entropy_tokens else None,
        )
        measured: dict = {}
        _measured.set(measured)
        prompt = {"prompt_token_ids": request.token_ids}
        async for output in self.engine.generate(prompt=prompt, sampling_params=parameters, request_id=uuid4().hex):
            final = output.outputs[0]
        logprobs = [position[token].logprob for token, position in zip(final.token_ids, final.logprobs, strict=True)]
        return Generation(list(final.token_ids), logprobs, entropies=measured.get(ENTROPIES))


class InstantTools:
    """Every call has the same answer."""

    async def execute(self, call, state, messages) -> ToolAnswer:
        return ToolAnswer("Page 1: Zovi 42", "ok")

    def can_fork(self, name: str) -> bool:
        return True


@dataclass
class Round:
    seconds: float
    cpu_seconds: float
    """The CPU time of the server's process, which reduces the log-probabilities; vLLM's engine has another one."""
    requests: int
    tokens: int = field(default=0)


async def run_once(
    variant: str, engine: MeasuringEngine, prompts: list[list[int]], syntax: TagSyntax, seed: int
) -> Round:
    """Grow one tree for each prompt, all at the same time."""
    roots, config = VARIANTS[variant]
    config = replace(config, initial_rollouts=roots)
    rule = build_rule(config)
    local = LocalEngine(engine, syntax.tags.stop_strings)
    tokens: dict[tuple[int, int], int] = {}

    async def grow(number: int) -> None:
        async def keep(leaf: Leaf) -> None:
            tokens.update({(number, one.id): len(one.token_ids) for one in leaf.segments if one.is_sampled})

        sizes = RolloutSettings(prompts[number], LEAVES, 128, vocabulary_size=400, seed=f"{seed}/{number}")
        await PromptRollout(sizes, config, rule, RolloutServices(local, InstantTools(), syntax, keep)).run()

    start, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(grow(number) for number in range(len(prompts))))
    return Round(time.perf_counter() - start, time.process_time() - cpu, local.requests, sum(tokens.values()))


async def measure(world: Path) -> dict[str, list[Round]]:
    # Only after verl, whose plug-in lets vLLM's CPU wheel be found.
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    os.environ |= CpuPlatform().rollout_env_vars()
    tokenizer = AutoTokenizer.from_pretrained(world / "model")
    arguments = AsyncEngineArgs(
        model=str(world / "model"), dtype="float32", enforce_eager=True, distributed_executor_backend="uni"
    )
    engine = MeasuringEngine(AsyncLLM.from_engine_args(arguments))
    syntax = TagSyntax(
        Tags(["python", "search"]),
        lambda ids: tokenizer.decode(ids, skip_special_tokens=False),
        lambda text: tokenizer.encode(text, add_special_tokens=False),
        {tokenizer.eos_token_id},
    )
    messages = pandas.read_parquet(world / "train.parquet")["prompt"][:PROMPTS]
    prompts = [
        list(tokenizer.apply_chat_template(list(one), add_generation_prompt=True, return_dict=False))
        for one in messages
    ]
    rounds: dict[str, list[Round]] = {variant: [] for variant in VARIANTS}
    for number in range(ROUNDS + 1):
        for variant in VARIANTS:
            done = await run_once(variant, engine, prompts, syntax, number)
            if number:  # the first warms up
                rounds[variant].append(done)
    engine.shutdown()
    return rounds


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = Path(sys.argv[1] if len(sys.argv) > 1 else folder)
        subprocess.run([sys.executable, "-m", "arpo_verl.tiny_world", "--out", str(world)], check=True)
        rounds = asyncio.run(measure(world))
    print(f"{PROMPTS} prompts, {LEAVES} leaves, k = {K}, median of {ROUNDS}")
    print(f"{'variant':20} {'requests':>9} {'tokens':>7} {'seconds':>8} {'server CPU ms per token':>24}")
    for variant, done in rounds.items():
        names = ("requests", "tokens", "seconds", "cpu_seconds")
        requests, tokens, seconds, cpu = (statistics.median(getattr(one, name) for one in done) for name in names)
        print(f"{variant:20} {requests:9.0f} {tokens:7.0f} {seconds:8.2f} {1e3 * cpu / tokens:24.3f}")


if __name__ == "__main__":
    main()
