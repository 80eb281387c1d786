"""A model of the released code's schedule (RUC-NLPIR/ARPO, `vllm_rollout_with_tools.py`), written anew to be timed.

Rounds with two barriers: all active rollouts of the batch generate until the slowest has ended, then all their calls
run, 64 at a time, until the slowest has ended. Branching follows, by the entropy of the turn that ended in the call. A
prompt that has no active rollout gets one fresh one in each round while rollouts are missing. One `max_tokens` holds
for all: the largest that any of them has left; what exceeds the response length is cut off at the end.

Left out, because it would only slow the schedule down: decoding, encoding and bookkeeping in one Python thread between
the barriers, and retries of failed calls. Left out, because it only disturbs the entropies: initial entropies that stay
from the batch before.
"""

import asyncio
import random
from dataclasses import dataclass, field

from arpo_verl.config import ArpoConfig
from arpo_verl.entropy import reference_entropy_change
from arpo_verl.rollout.protocols import Generation, GenerationRequest, ToolCall
from arpo_verl.rollout.turns import RolloutServices

TOOL_WORKERS = 64
"""Threads of the released code's pool (`tools.max_workers`)."""


@dataclass(frozen=True)
class Sizes:
    leaves: int
    roots: int
    max_response_tokens: int
    vocabulary_size: int


@dataclass
class Rollout:
    """One trajectory."""

    prompt: int
    prompt_ids: list[int]
    response: list[int] = field(default_factory=list)
    calls: int = 0
    initial_entropies: list[float] | None = None
    entropies: list[float] = field(default_factory=list)

    def fork(self) -> "Rollout":
        """Return a copy; it takes its initial entropies from its own first turn."""
        return Rollout(self.prompt, self.prompt_ids, list(self.response), self.calls)


class ReleasedSchedule:
    """Rolls a batch out. Single use."""

    def __init__(self, sizes: Sizes, config: ArpoConfig, world: RolloutServices, chance: random.Random) -> None:
        self._sizes = sizes
        self._config = config
        self._world = world
        self._chance = chance

    async def run(self, prompts: list[list[int]]) -> list[list[Rollout]]:
        """Return the rollouts of each prompt."""
        groups = [[Rollout(number, ids) for _ in range(self._sizes.roots)] for number, ids in enumerate(prompts)]
        active = [rollout for group in groups for rollout in group]
        while active:
            calling = await self._find_calls(active, await self._generate(active))
            await self._answer(calling)
            # The shared limit is no less than any rollout's own, so that who meets it has no room left.
            going_on = [rollout for rollout, _ in calling if self._room(rollout) > 0]
            active = going_on + self._branch(groups, going_on) + self._top_up(groups, going_on)
        for group in groups:
            for rollout in group:
                del rollout.response[self._sizes.max_response_tokens :]
        return groups

    def _room(self, rollout: Rollout) -> int:
        return self._sizes.max_response_tokens - len(rollout.response)

    async def _generate(self, active: list[Rollout]) -> list[Generation]:
        shared_limit = max(self._room(rollout) for rollout in active)
        requests = [
            GenerationRequest(rollout.prompt_ids + rollout.response, shared_limit, "", self._config.probe_tokens)
            for rollout in active
        ]
        turns = await asyncio.gather(*(self._world.engine.generate(request) for request in requests))
        for rollout, turn in zip(active, turns, strict=True):
            rollout.response += turn.token_ids
            rollout.entropies = turn.entropies or []
            if rollout.initial_entropies is None:
                rollout.initial_entropies = rollout.entropies
        return turns

    async def _find_calls(self, active: list[Rollout], turns: list[Generation]) -> list[tuple[Rollout, ToolCall]]:
        """Return who has a call to execute; who has made too many ends."""
        calling = []
        for rollout, turn in zip(active, turns, strict=True):
            calls = (await self._world.syntax.read_turn(turn.token_ids)).calls
            if calls and rollout.calls < self._config.max_tool_calls:
                rollout.calls += 1
                calling.append((rollout, calls[0]))
        return calling

    async def _answer(self, calling: list[tuple[Rollout, ToolCall]]) -> None:
        workers = asyncio.Semaphore(TOOL_WORKERS)

        async def answer(rollout: Rollout, call: ToolCall) -> None:
            async with workers:
                result = await self._world.tools.execute(call, {}, [])
            rendered = await self._world.syntax.render_results(rollout.prompt_ids + rollout.response, [], [result])
            rollout.response += rendered.token_ids

        await asyncio.gather(*(answer(rollout, call) for rollout, call in calling))

    def _branch(self, groups: list[list[Rollout]], going_on: list[Rollout]) -> list[Rollout]:
        """Fork within each prompt's budget, the first rollouts of a prompt first."""
        config, forks = self._config, []
        for rollout in going_on:
            group = groups[rollout.prompt]
            change = reference_entropy_change(
                rollout.entropies, rollout.initial_entropies or [], self._sizes.vocabulary_size
            )
            for _ in range(min(config.branch_factor - 1, self._sizes.leaves - len(group))):
                draw = min(max(self._chance.random() - config.entropy_weight * change, 0.0), 1.0)
                if draw <= config.base_probability:
                    forks.append(rollout.fork())
                    group.append(forks[-1])
        return forks

    def _top_up(self, groups: list[list[Rollout]], going_on: list[Rollout]) -> list[Rollout]:
        """Start one fresh rollout for each prompt that has no active one and too few in all."""
        busy = {rollout.prompt for rollout in going_on}
        fresh = []
        for number, group in enumerate(groups):
            if number not in busy and len(group) < self._sizes.leaves:
                fresh.append(Rollout(number, group[0].prompt_ids))
                group.append(fresh[-1])
        return fresh
