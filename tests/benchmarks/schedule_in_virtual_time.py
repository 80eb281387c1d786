"""How long a batch's rollout takes under each schedule: `python tests/benchmarks/schedule_in_virtual_time.py`.

The real scheduler runs all prompts of a batch on one simulated inference engine and simulated tools, under a virtual
clock: exact, the same on every machine, from the seed alone. It is compared with a model of the released code's
schedule and with itself without branching (flat GRPO), on the same behaviour of the model: the k-th continuation of a
context is the same turn under every schedule. Not simulated: the time that a schedule's own Python takes, and training.
The aims for 64 prompts are at least 3 times the speed of the released schedule and at most 1.1 times the makespan of
flat GRPO.

What is simulated is the released 7B script on one of its eight GPUs. There each engine (one GPU, no tensor parallelism)
has barriers of its own, for 16 of the 128 prompts; 64 and 128 prompts on one are heavier loads. M = 16, N = 8, 4096
tokens a response.

Engine, a 7B model in bfloat16 on an H100:
- 8 ms a step: 15 GB of weights at 3.35 TB/s take 4.6 ms, at the 77 % of the bandwidth that vLLM reached on an A100
  (johnmusgrave.com/p/vllm-throughput-latency-sweep-on) 6 ms; the rest is launching and sampling.
- 0.06 ms more for each sequence: 15 GFLOP at half of 990 TFLOP/s are 0.03 ms, 1000 tokens of keys and values (57 KB
  each) 0.02 ms. With 512 sequences that makes 13 200 tokens/s; 12 500 are published (morphllm.com/vllm-benchmarks).
- 0.03 ms for each token of prefill that is not in the prefix cache: the same 15 GFLOP. Nothing leaves the cache.
- 512 sequences at most: what 41 GB of cache (70 % of 80 GB, less the weights) hold at 1400 tokens each.

Tools, one call in two each:
- search: median 1.0 s, 95th percentile 3.0 s (published: SerpAPI 1.2 and 3.5 s, Tavily 0.8 and 2.2 s,
  scavio.dev/glossary/search-api-latency-budget); 500 tokens a result (ten snippets).
- Python: median 0.3 s, a fresh interpreter that imports numpy and sympy (measured: 0.29 s); 30 tokens a result.
- One call in a hundred is slow: retries, rate limits, code without end. Pareto from 10 s on with exponent 1, cut at
  120 s, the time limit of the released scripts. Assumed, as no figures are published; the last table varies it.

Policy, assumed within what the scripts allow:
- Turns of 150 tokens in the median, 207 in the mean, one in a hundred above 960.
- A first turn calls a tool with probability 0.95; each later one with a probability of the prompt, from 0.4 to 0.8.
  6 calls a leaf at most (the default of `arpo.max_tool_calls`), 2.3 in the mean.
- Entropies rise from 0.45 to 0.6 nats after a tool result, so that a fork has probability 0.55.
"""

import argparse
import asyncio
import contextlib
import random
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from released_schedule import ReleasedSchedule, Sizes
from simulated_engine import EngineSpeed, Replicas, SimulatedEngine, lower_bound
from simulated_world import LogNormal, Policy, SimulatedTools, Tool, World
from virtual_clock import run

from arpo_verl.config import ArpoConfig
from arpo_verl.rollout.calls import NO_LIMIT
from arpo_verl.rollout.scheduler import PromptRollout
from arpo_verl.rollout.tree import Leaf
from arpo_verl.rollout.turns import RolloutServices, RolloutSettings
from arpo_verl.rules import build_rule

SPEED = EngineSpeed(step_seconds=0.008, sequence_seconds=6e-5, prefill_seconds=3e-5, max_sequences=512)
SEARCH = Tool(
    latency=LogNormal(median=1.0, sigma=0.67),
    slow_fraction=0.01,
    slow_seconds=10.0,
    slow_exponent=1.0,
    limit_seconds=120.0,
    result_tokens=LogNormal(median=500, sigma=0.4),
)
PYTHON = replace(SEARCH, latency=LogNormal(median=0.3, sigma=0.8), result_tokens=LogNormal(median=30, sigma=1.0))
POLICY = Policy(
    prompt_tokens=300,
    turn_tokens=LogNormal(median=150, sigma=0.8),
    first_call=0.95,
    further_calls=(0.4, 0.8),
    initial_entropy=0.45,
    later_entropy=0.6,
)
SIZES = Sizes(leaves=16, roots=8, max_response_tokens=4096, vocabulary_size=151_665)
SEEDS = {16: 8, 64: 6, 128: 3}
"""How many seeds for each number of prompts; the larger a batch the less one differs from the next."""


@dataclass(frozen=True)
class Scenario:
    """What is simulated, whatever the schedule."""

    prompts: int
    replicas: int = 1
    speed: EngineSpeed = SPEED
    tools: Sequence[Tool] = (SEARCH, PYTHON)
    policy: Policy = POLICY
    sizes: Sizes = SIZES
    arpo: Mapping[str, Any] = field(default_factory=dict)
    """What all schedules have set in their `ArpoConfig`."""

    def with_tail(self, slow_fraction: float, limit_seconds: float) -> "Scenario":
        """Return the scenario with other slow calls."""
        tools = [replace(tool, slow_fraction=slow_fraction, limit_seconds=limit_seconds) for tool in self.tools]
        return replace(self, tools=tools)


@dataclass(frozen=True)
class Schedule:
    """One row of a table."""

    name: str
    config: ArpoConfig
    is_released: bool = False
    branches: bool = True


RELEASED = Schedule("released code, lockstep", ArpoConfig(), is_released=True)
OURS = Schedule("ours, async", ArpoConfig())
FLAT = Schedule("flat GRPO, async", ArpoConfig(), branches=False)
SCHEDULES = (RELEASED, Schedule("ours, lockstep", ArpoConfig(schedule="lockstep")), OURS, FLAT)
OPTIONS = (
    Schedule("ours, branch_timing=segment", ArpoConfig(branch_timing="segment")),
    Schedule("ours, 64 calls, 256 requests", ArpoConfig(max_tool_calls_in_flight=64, max_requests_in_flight=256)),
)
"""Shown for 64 prompts alone."""


@dataclass(frozen=True)
class Outcome:
    """What a batch took under one schedule."""

    makespan: float
    """Virtual seconds."""
    calls: int
    generated_tokens: int
    mean_batch: float
    """Sequences that ran in the engine at the same time, over the makespan."""
    lower_bound: float
    """Virtual seconds."""
    leaves: list[int]
    """The number of leaves of each prompt."""
    forks: int = 0
    top_ups: int = 0
    """Leaves of the batch that forked, and that started from the prompt in place of forks."""
    cost_ratio: float = 0.0
    """t1/t2 at the forks: tokens sampled before a fork point over those that the fork has sampled after it."""


def simulate(scenario: Scenario, schedule: Schedule, seed: int) -> Outcome:
    """Roll a batch out in virtual time. The same arguments give the same outcome."""
    return roll_out(scenario, schedule, seed)[0]


def roll_out(scenario: Scenario, schedule: Schedule, seed: int) -> tuple[Outcome, World]:
    """Return with the outcome the turns of the batch and when they were sampled."""
    world = World(scenario.policy, scenario.tools, str(seed))
    engines = [SimulatedEngine(world, scenario.speed, number) for number in range(scenario.replicas)]
    engine, tools = Replicas(engines, str(seed)), SimulatedTools(world)
    prompts = [world.prompt(number) for number in range(scenario.prompts)]
    sizes = scenario.sizes
    config = replace(schedule.config, **({"initial_rollouts": sizes.roots} | dict(scenario.arpo)))
    rule = build_rule(config if schedule.branches else replace(config, rule="linear"))
    finished: Counter[str] = Counter()

    kinds: Counter[str] = Counter()

    async def on_leaf(leaf: Leaf) -> None:
        finished[leaf.request_id.rpartition("/")[0]] += 1
        kinds["fork"] += leaf.parent is not None
        kinds["top-up"] += leaf.is_top_up
        if leaf.parent is not None:
            sampled = [len(one.token_ids) for one in leaf.segments if one.is_sampled]
            own = leaf.own_segments - sum(not one.is_sampled for one in leaf.segments[-leaf.own_segments :])
            kinds["before"] += sum(sampled[: len(sampled) - own])
            kinds["after"] += sum(sampled[len(sampled) - own :])

    services = RolloutServices(
        engine, tools, world, on_leaf, _slot(config.max_requests_in_flight), _slot(config.max_tool_calls_in_flight)
    )

    async def grow_all() -> list[int]:
        if schedule.is_released:
            groups = await ReleasedSchedule(sizes, config, services, random.Random(seed)).run(prompts)
            return [len(group) for group in groups]
        settings = [
            RolloutSettings(prompt, sizes.leaves, sizes.max_response_tokens, sizes.vocabulary_size, f"{seed}/{number}")
            for number, prompt in enumerate(prompts)
        ]
        await asyncio.gather(*(PromptRollout(one, config, rule, services).run() for one in settings))
        return [finished[one.seed] for one in settings]

    leaves, makespan = run(grow_all())
    bound = lower_bound(world, engines, scenario.speed, scenario.prompts * sizes.leaves)
    mean_batch = sum(one.sequence_seconds for one in engines) / makespan
    ratio = kinds["before"] / max(1, kinds["after"])
    forks, top_ups = kinds["fork"], kinds["top-up"]
    tokens = sum(one.generated_tokens for one in engines)
    outcome = Outcome(makespan, tools.calls, tokens, mean_batch, bound, leaves, forks, top_ups, ratio)
    return outcome, world


def _slot(at_most: int | None) -> contextlib.AbstractAsyncContextManager[Any]:
    return NO_LIMIT if at_most is None else asyncio.Semaphore(at_most)


def _mean(outcomes: Sequence[Outcome], name: str) -> float:
    return statistics.fmean(getattr(outcome, name) for outcome in outcomes)


def print_batch(prompts: int, seeds: int, schedules: Sequence[Schedule]) -> None:
    """Print the table of one batch size; ratios are those of the means over the seeds."""
    rows = {one.name: [simulate(Scenario(prompts), one, seed) for seed in range(seeds)] for one in schedules}
    released, flat = rows[RELEASED.name], rows[FLAT.name]
    print(f"\n{prompts} prompts, {seeds} seeds")
    print(f"{'':28}  makespan  speed of   (range over  makespan   calls      tokens     mean   makespan of")
    print(f"{'':28}  seconds   lockstep   the seeds)   of flat    of flat    of flat    batch  lower bound")
    for name, outcomes in rows.items():
        speeds = [one.makespan / other.makespan for one, other in zip(released, outcomes, strict=True)]
        print(
            f"{name:28}  {_mean(outcomes, 'makespan'):8.1f}  "
            f"{_mean(released, 'makespan') / _mean(outcomes, 'makespan'):8.2f}   "
            f"{min(speeds):4.2f} - {max(speeds):4.2f}  "
            f"{_mean(outcomes, 'makespan') / _mean(flat, 'makespan'):8.2f}   "
            f"{_mean(outcomes, 'calls') / _mean(flat, 'calls'):7.2f}    "
            f"{_mean(outcomes, 'generated_tokens') / _mean(flat, 'generated_tokens'):7.2f}    "
            f"{_mean(outcomes, 'mean_batch'):5.0f}  "
            f"{_mean(outcomes, 'makespan') / _mean(outcomes, 'lower_bound'):11.2f}"
        )


def variations() -> dict[str, Scenario]:
    """Return other worlds for 64 prompts, each with one thing changed."""
    usual = Scenario(64)
    eight = EngineSpeed(SPEED.step_seconds, SPEED.sequence_seconds / 8, SPEED.prefill_seconds / 8, 8 * 512)
    return {
        "as above": usual,
        "no slow calls": usual.with_tail(0.0, 120.0),
        "slow calls: 3 in 100": usual.with_tail(0.03, 120.0),
        "slow calls: 30 s at most": usual.with_tail(0.01, 30.0),
        "a sequence adds 0.02 ms to a step": replace(usual, speed=replace(SPEED, sequence_seconds=2e-5)),
        "a sequence adds 0.18 ms to a step": replace(usual, speed=replace(SPEED, sequence_seconds=18e-5)),
        "eight GPUs as one engine": replace(usual, speed=eight),
        "turns of 500 tokens in the median": replace(
            usual, policy=replace(POLICY, turn_tokens=LogNormal(median=500, sigma=0.8))
        ),
        "at most 3 calls a leaf": replace(usual, arpo={"max_tool_calls": 3}),
        "each prompt needs 1 to 4 calls": replace(usual, policy=replace(POLICY, needed_calls=(1, 4))),
    }


def print_variations(seeds: int) -> None:
    """Print what becomes of the conclusion in other worlds."""
    print(f"\n64 prompts, {seeds} seeds, one thing changed; our asynchronous schedule against the other two")
    print(f"{'':34}  makespan  speed of  makespan  calls    calls a leaf")
    print(f"{'':34}  seconds   lockstep  of flat   of flat  in flat")
    for name, scenario in variations().items():
        ours, released, flat = (
            [simulate(scenario, schedule, seed) for seed in range(seeds)] for schedule in (OURS, RELEASED, FLAT)
        )
        seconds = _mean(ours, "makespan")
        leaves = scenario.prompts * scenario.sizes.leaves
        print(
            f"{name:34}  {seconds:8.1f}  {_mean(released, 'makespan') / seconds:8.2f}  "
            f"{seconds / _mean(flat, 'makespan'):8.2f}  {_mean(ours, 'calls') / _mean(flat, 'calls'):7.2f}  "
            f"{_mean(flat, 'calls') / leaves:12.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the rollout's schedules in virtual time.")
    parser.add_argument("--times", type=int, default=1, help="multiplies the number of seeds")
    times = parser.parse_args().times
    for prompts, seeds in SEEDS.items():
        print_batch(prompts, seeds * times, SCHEDULES + (OPTIONS if prompts == 64 else ()))
    print_variations(2 * times)
    print(f"\n{time.process_time():.0f} s of CPU time")


if __name__ == "__main__":
    main()
