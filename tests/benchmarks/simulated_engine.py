"""A simulated inference engine with continuous batching, replicas of it behind verl's balancer, and a lower bound."""

import asyncio
import heapq
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from cachetools import LRUCache
from simulated_world import Node, World

from arpo_verl.rollout.protocols import Generation, GenerationRequest

ROUTES = 10_000
"""Request ids that verl's balancer remembers (`DEFAULT_ROUTING_CACHE_SIZE` of `workers/rollout/router.py`)."""


@dataclass(frozen=True)
class EngineSpeed:
    """One replica with continuous batching. A step gives each running sequence a token."""

    step_seconds: float
    """The time of a step, whatever the batch."""
    sequence_seconds: float
    """Added to a step by each running sequence."""
    prefill_seconds: float
    """Added to a step by each token of a context that is not in the prefix cache."""
    max_sequences: int
    """That run at the same time; others queue."""

    def alone(self, tokens: int) -> float:
        """Return the seconds that a sequence takes which has the engine to itself."""
        return tokens * (self.step_seconds + self.sequence_seconds)


@dataclass(frozen=True, eq=False)
class _Sequence:
    """A request that waits or runs."""

    node: Node
    tokens: int
    prefill: int
    done: "asyncio.Future[None]"
    asked: float


class SimulatedEngine:
    """Continuous batching in whole steps: sequences join and leave between two steps.

    The prefix cache holds everything that was ever computed here; nothing is preempted.
    """

    def __init__(self, world: World, speed: EngineSpeed, number: int = 0) -> None:
        self._world = world
        self._speed = speed
        self._bit = 1 << number
        self._waiting: list[tuple[float, int, _Sequence]] = []
        """Heap: the least first, then who came first."""
        self._asked = 0
        self._running: list[tuple[int, int, _Sequence]] = []
        """Heap by the step after which the sequence ends."""
        self._admitted = 0
        self._step = 0
        self._run_start = 0.0
        """When the steps with the present batch began, their prefill over."""
        self._changed = 0.0
        """When the present batch came together."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_step = 0
        self.generated_tokens = 0
        self.prefilled_tokens = 0
        self.sequence_seconds = 0.0
        """Sum over the sequences of the time that they ran."""

    @property
    def in_flight(self) -> int:
        return len(self._waiting) + len(self._running)

    async def generate(self, request: GenerationRequest) -> Generation:
        node, position = self._world.at(request.token_ids[-1])
        start = position + 1
        if position >= node.tokens:
            node, start = self._world.visit_child(node), 0
        tokens = min(request.max_tokens, node.tokens - start)
        prefill = await self.sample(node, start, tokens)
        node.generated += tokens
        return Generation(
            node.token_range(start, start + tokens),
            [-node.entropy] * tokens,
            entropies=[node.entropy] * min(tokens, request.entropy_tokens),
            is_at_limit=start + tokens < node.tokens,
            cached_tokens=len(request.token_ids) - prefill,
        )

    async def sample(self, node: Node, start: int, tokens: int, rank: float = 0.0) -> int:
        """Sample tokens of a turn and return how many tokens were not in the cache.

        Args:
            node: the turn.
            start: the number of its tokens that the request begins with.
            tokens: how many to sample.
            rank: of those that queue, who has the least is next.
        """
        prefill = self._computed(node, start)
        loop = asyncio.get_running_loop()
        sequence = _Sequence(node, tokens, prefill, loop.create_future(), loop.time())
        if not start:
            node.asked = loop.time()
        heapq.heappush(self._waiting, (rank, self._asked, sequence))
        self._asked += 1
        self._meet_arrival(loop)
        await sequence.done
        self.generated_tokens += tokens
        node.ended = loop.time()
        return prefill

    def _computed(self, node: Node, start: int) -> int:
        """Take a context into the cache and return how many of its tokens were not there."""
        tokens = start if not node.sampled_on & self._bit else 0
        node.sampled_on |= self._bit
        above = node.parent
        while above is not None and not above.cached_on & self._bit:
            tokens += above.result_tokens + (above.generated if not above.sampled_on & self._bit else 0)
            above.sampled_on |= self._bit
            above.cached_on |= self._bit
            above = above.parent
        return tokens

    @property
    def _step_seconds(self) -> float:
        return self._speed.step_seconds + self._speed.sequence_seconds * len(self._running)

    def _meet_arrival(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let a new sequence in after the step that is under way."""
        if self._timer is None:
            self._set_timer(loop, self._step, loop.time())
        elif self._running and len(self._running) < self._speed.max_sequences:
            steps = max(1, math.ceil((loop.time() - self._run_start) / self._step_seconds))
            if self._step + steps < self._timer_step:
                self._timer.cancel()
                self._set_timer(loop, self._step + steps, self._run_start + steps * self._step_seconds)

    def _set_timer(self, loop: asyncio.AbstractEventLoop, step: int, when: float) -> None:
        self._timer_step = step
        self._timer = loop.call_at(when, self._turn_over, loop)

    def _turn_over(self, loop: asyncio.AbstractEventLoop) -> None:
        """Between two steps: let sequences out and in, and set the timer to the next change."""
        self._timer = None
        self._step = self._timer_step
        self.sequence_seconds += len(self._running) * (loop.time() - self._changed)
        self._changed = loop.time()
        while self._running and self._running[0][0] <= self._step:
            _, _, sequence = heapq.heappop(self._running)
            if not sequence.done.done():
                sequence.done.set_result(None)
        prefill = 0
        while self._waiting and len(self._running) < self._speed.max_sequences:
            _, _, sequence = heapq.heappop(self._waiting)
            heapq.heappush(self._running, (self._step + sequence.tokens, self._admitted, sequence))
            self._admitted += 1
            prefill += sequence.prefill
            sequence.node.queued += loop.time() - sequence.asked
        self.prefilled_tokens += prefill
        self._run_start = loop.time() + prefill * self._speed.prefill_seconds
        if self._running:
            steps = self._running[0][0] - self._step
            self._set_timer(loop, self._running[0][0], self._run_start + steps * self._step_seconds)


class Replicas:
    """Engines behind verl's balancer: a request id stays where it was first, which had the fewest requests in flight.

    verl 0.9.1, `GlobalRequestLoadBalancer` in `workers/rollout/router.py`: of equally loaded ones any, and the id that
    was used longest ago is forgotten beyond `ROUTES`.
    """

    def __init__(self, engines: Sequence[SimulatedEngine], seed: str) -> None:
        self.engines = engines
        self._routes: LRUCache[str, int] = LRUCache(ROUTES)
        self._chance = random.Random(seed)

    async def generate(self, request: GenerationRequest) -> Generation:
        place = self._routes.get(request.request_id)
        if place is None:
            place = self._routes[request.request_id] = self._chance.choice(least_loaded(self.engines))
        return await self.engines[place].generate(request)


def least_loaded(engines: Sequence[SimulatedEngine]) -> list[int]:
    """Return the numbers of the engines with the fewest requests in flight."""
    loads = [engine.in_flight for engine in engines]
    least = min(loads)
    return [number for number, load in enumerate(loads) if load == least]


def lower_bound(world: World, engines: Sequence[SimulatedEngine], speed: EngineSpeed, sequences: int) -> float:
    """Return seconds that no schedule of the same turns and calls can go below.

    The larger of the longest chain of turns and calls of one leaf, run alone, and of the engines' work with as many of
    `sequences` at the same time as they take, always.
    """
    work = sum(one.generated_tokens for one in engines) / len(engines)
    batch = min(sequences / len(engines), speed.max_sequences)
    prompts = sum(node.result_tokens for node in world.nodes if node.children)
    prefill = prompts * speed.prefill_seconds / len(engines)
    return max(longest_chain(world, speed), work * (speed.step_seconds / batch + speed.sequence_seconds) + prefill)


def longest_chain(world: World, speed: EngineSpeed) -> float:
    """Return the seconds of the longest chain of turns and calls of one leaf that has an engine to itself."""
    ends: list[float] = []
    for node in world.nodes:
        seconds = speed.alone(node.generated)
        if node.parent is not None:
            seconds += ends[node.parent.index] + node.parent.result_tokens * speed.prefill_seconds
        ends.append(seconds + (node.latency if node.is_called else 0.0))
    return max(ends)
