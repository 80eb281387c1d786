"""Trees of many settings, grown in the scripted world, as digests: what must stay the same for the same seed.

    python tests/shared/recorded_trees.py > tests/shared/recorded_trees.json

The recorded file was made by arpo-verl 0.1.0 before branching rules became exchangeable.
"""

import asyncio
import hashlib
import itertools
import json
import random
from collections.abc import Iterator
from typing import Any

from fakes import END, Collector, ScriptedEngine, ScriptedTools, ids, syntax

from arpo_verl.config import ArpoConfig
from arpo_verl.rollout.protocols import Generation, GenerationRequest
from arpo_verl.rollout.scheduler import PromptRollout
from arpo_verl.rollout.turns import RolloutServices, RolloutSettings
from arpo_verl.rules import build_rule

TURNS = (
    *("<python>1+1</python>", "why<python>2</python>", "<search>a b</search>", "<python>3</python>") * 2,
    *(f"words{END}", f"{END}", "</python>", "w" * 400),
)


class RepeatableEngine(ScriptedEngine):
    """Writes what the request's context and seed say, with entropies that depend on them too."""

    def __init__(self, delays: random.Random) -> None:
        super().__init__(lambda context: "", delays=delays)

    async def generate(self, request: GenerationRequest) -> Generation:
        chance = random.Random(f"{request.token_ids}/{request.seed}/{request.request_id}")
        engine = ScriptedEngine(lambda context: chance.choice(TURNS), -3 * chance.random(), self.delays)
        generation = await engine.generate(request)
        self.requests.append(request)
        return generation


def settings() -> Iterator[dict[str, Any]]:
    """Yield the knobs of each recorded tree, with its size and seed."""
    sizes = [(1, 1), (4, 2), (8, 4), (8, 1), (6, 6), (16, 8)]
    for rule, timing, schedule, source in itertools.product(
        ("bernoulli", "threshold", "reference"), ("probe", "segment"), ("async", "lockstep"), ("topk", "surprisal")
    ):
        if rule == "reference" and source == "surprisal":
            continue
        for (leaves, roots), branch_factor, calls, seed in itertools.product(sizes, (1, 2, 3), (0, 2, 6), range(2)):
            yield {
                "leaves": leaves,
                "roots": roots,
                "seed": seed,
                "arpo": {
                    "rule": rule,
                    "branch_timing": timing,
                    "schedule": schedule,
                    "entropy_source": source,
                    "initial_rollouts": roots,
                    "branch_factor": branch_factor,
                    "max_tool_calls": calls,
                    "probe_tokens": 3,
                    "entropy_weight": 1.5,
                },
            }


def grown(setting: dict[str, Any]) -> list[Any]:
    """Return all of a tree that a seed promises: leaves, decisions and requests."""
    engine, collector = RepeatableEngine(random.Random(setting["seed"])), Collector()
    tools = ScriptedTools(lambda call: f"{len(call.arguments)}", random.Random(setting["seed"]))
    services = RolloutServices(engine, tools, syntax(), collector)
    config = ArpoConfig(**setting["arpo"])
    sizes = RolloutSettings(ids("Q:"), setting["leaves"], 300, 100, str(setting["seed"]))
    asyncio.run(PromptRollout(sizes, config, build_rule(config), services).run())
    leaves = [
        [
            leaf.number,
            leaf.parent,
            leaf.path,
            leaf.fork_token,
            leaf.is_top_up,
            leaf.token_ids,
            leaf.segment_ids,
            leaf.logprobs,
            [[seen.entropy, seen.entropy_change, seen.branch_score, seen.forks] for seen in leaf.decisions],
            leaf.stop_reason.value,
        ]
        for leaf in sorted(collector.leaves, key=lambda leaf: leaf.number)
    ]
    requests = [[one.token_ids, one.max_tokens, one.entropy_tokens, one.seed] for one in engine.requests]
    return [leaves, sorted(requests, key=json.dumps)]


def digest(setting: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(grown(setting)).encode()).hexdigest()[:8]


if __name__ == "__main__":
    print(json.dumps([digest(setting) for setting in settings()], indent=0))
