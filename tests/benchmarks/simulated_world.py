"""A simulated policy, inference engine and tools, for any schedule that runs on a virtual clock.

The policy is an infinite tree of turns. A turn's children are its possible continuations after the tool's result; the
k-th time that a context is continued its k-th child is visited, and what a child is follows from the seed and its place
in the tree alone. So all schedules meet the same model: the first root of a prompt is the same turn under each of them.

A token's number says which turn it belongs to and at which position, the tool's result counted on after the turn; an
engine therefore needs the last token of a context alone.
"""

import asyncio
import heapq
import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from arpo_verl.rollout.protocols import Generation, RenderedResults, Request, ToolAnswer, ToolCall, Turn

POSITIONS = 1 << 14
"""More than a turn and its result have tokens."""


@dataclass(frozen=True)
class EngineSpeed:
    """One replica with continuous batching. A step gives each running sequence a token."""

    step_seconds: float
    """Of a step, whatever the batch."""
    sequence_seconds: float
    """Added to a step by each running sequence."""
    prefill_seconds: float
    """Added to a step by each token of a context that is not in the prefix cache."""
    max_sequences: int
    """That run at the same time; others queue, first come, first served."""


@dataclass(frozen=True)
class LogNormal:
    median: float
    sigma: float

    def draw(self, chance: random.Random) -> float:
        return self.median * math.exp(self.sigma * chance.gauss(0, 1))


@dataclass(frozen=True)
class Tool:
    """A tool's latency in seconds, log-normal with a Pareto tail, and the length of its results in tokens."""

    latency: LogNormal
    slow_fraction: float
    """Of the calls whose latency is slow_seconds * u^(-1/slow_exponent), u uniform, instead."""
    slow_seconds: float
    slow_exponent: float
    limit_seconds: float
    """No call takes longer."""
    result_tokens: LogNormal

    def draw_latency(self, chance: random.Random) -> float:
        if chance.random() < self.slow_fraction:
            seconds = self.slow_seconds * math.pow(1 - chance.random(), -1 / self.slow_exponent)
        else:
            seconds = self.latency.draw(chance)
        return min(seconds, self.limit_seconds)


@dataclass(frozen=True)
class Policy:
    """How the simulated model behaves."""

    prompt_tokens: int
    turn_tokens: LogNormal
    first_call: float
    """Probability that a first turn calls a tool."""
    further_calls: tuple[float, float]
    """The same of each later turn; each prompt has its own value from this range."""
    initial_entropy: float
    """Mean entropy of a first turn's watched tokens, in nats."""
    later_entropy: float
    """The same after a tool result. Both vary from turn to turn (gamma of shape 4)."""
    needed_calls: tuple[int, int] | None = None
    """If given, a prompt needs a number of calls from this range; a turn calls with probability 0.9 before they are
    made and 0.1 after, whatever `first_call` and `further_calls` say."""

    def call_probability(self, calls_made: int, kind: float) -> float:
        """Return how likely a turn calls a tool, for a prompt of a kind from 0 to 1."""
        if self.needed_calls is not None:
            low, high = self.needed_calls
            return 0.9 if calls_made < low + int(kind * (high - low + 1)) else 0.1
        if calls_made == 0:
            return self.first_call
        least, most = self.further_calls
        return least + kind * (most - least)


@dataclass
class Node:
    """A prompt or a turn with its tool's result."""

    index: int
    path: str
    parent: "Node | None"
    tokens: int
    """Tokens that are sampled; 0 of a prompt."""
    result_tokens: int
    """Tokens that follow them: the tool's result, or the prompt itself."""
    calls: bool
    latency: float
    entropy: float
    kind: float
    """Of the prompt: where it stands in the policy's ranges, from 0 to 1."""
    depth: int
    """Calls made before this turn."""
    children: int = 0
    generated: int = 0
    """How many of the tokens a schedule has sampled."""
    is_called: bool = False
    """A schedule has executed the call."""
    is_cached: bool = False
    """Result and all before it are in the prefix cache."""

    def token(self, position: int) -> int:
        return self.index * POSITIONS + position

    def token_range(self, start: int, end: int) -> list[int]:
        return list(range(self.token(start), self.token(end)))


@dataclass
class World:
    """The policy's tree as far as it has been visited, and the call syntax of its tokens."""

    policy: Policy
    tools: Sequence[Tool]
    """One of them is called, each as often."""
    seed: str
    nodes: list[Node] = field(default_factory=list)

    def prompt(self, number: int) -> list[int]:
        """Return the tokens of a new prompt."""
        path, size = f"{self.seed}/{number}", self.policy.prompt_tokens
        kind = random.Random(path).random()
        node = Node(
            index=len(self.nodes),
            path=path,
            parent=None,
            tokens=0,
            result_tokens=size,
            calls=False,
            latency=0.0,
            entropy=0.0,
            kind=kind,
            depth=-1,
        )
        self.nodes.append(node)
        return node.token_range(0, size)

    def at(self, token_id: int) -> tuple[Node, int]:
        """Return the node of a token, and its position there."""
        index, position = divmod(token_id, POSITIONS)
        return self.nodes[index], position

    def visit_child(self, parent: Node) -> Node:
        """Continue a context once more."""
        path = f"{parent.path}.{parent.children}"
        parent.children += 1
        chance, policy, depth = random.Random(path), self.policy, parent.depth + 1
        entropy = policy.later_entropy if depth else policy.initial_entropy
        tool = chance.choice(self.tools)
        tokens = min(POSITIONS // 2, max(1, round(policy.turn_tokens.draw(chance))))
        node = Node(
            index=len(self.nodes),
            path=path,
            parent=parent,
            tokens=tokens,
            result_tokens=min(POSITIONS // 2, max(1, round(tool.result_tokens.draw(chance)))),
            calls=chance.random() < policy.call_probability(depth, parent.kind),
            latency=tool.draw_latency(chance),
            entropy=entropy * chance.gammavariate(4, 0.25),
            kind=parent.kind,
            depth=depth,
        )
        self.nodes.append(node)
        return node

    def ends_answer(self, token_id: int) -> bool:
        node, position = self.at(token_id)
        return position == node.tokens - 1 and not node.calls

    def is_complete(self, token_id: int) -> bool:
        """Whether a sampled token is the last of its turn."""
        node, position = self.at(token_id)
        return position == node.tokens - 1

    async def is_over(self, token_ids: list[int]) -> bool:
        return self.is_complete(token_ids[-1])

    async def read_turn(self, token_ids: list[int]) -> Turn:
        node, _ = self.at(token_ids[-1])
        is_call = node.calls and self.is_complete(token_ids[-1])
        return Turn([ToolCall("tool", str(node.index))] if is_call else [], used=len(token_ids))

    async def render_results(
        self, context: list[int], messages: Sequence[dict[str, Any]], answers: Sequence[ToolAnswer]
    ) -> RenderedResults:
        node, _ = self.at(context[-1])
        return RenderedResults(node.token_range(node.tokens, node.tokens + node.result_tokens))


class SimulatedTools:
    """Takes as long as the turn says. Any number of calls run at the same time."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.calls = 0

    async def execute(self, call: ToolCall, state: dict[str, Any], messages: Sequence[dict[str, Any]]) -> ToolAnswer:
        node = self._world.nodes[int(str(call.arguments))]
        node.is_called = True
        self.calls += 1
        await asyncio.sleep(node.latency)
        return ToolAnswer("", "ok")

    def can_fork(self, name: str) -> bool:
        return True


@dataclass(frozen=True)
class _Sequence:
    """A request that waits or runs."""

    tokens: int
    prefill: int
    done: "asyncio.Future[None]"


class SimulatedEngine:
    """Continuous batching in whole steps: sequences join and leave between two steps.

    The prefix cache holds everything that was ever computed; nothing is preempted.
    """

    def __init__(self, world: World, speed: EngineSpeed) -> None:
        self._world = world
        self._speed = speed
        self._waiting: deque[_Sequence] = deque()
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

    async def generate(self, request: Request) -> Generation:
        node, position = self._world.at(request.token_ids[-1])
        start, prefill = position + 1, 0
        if position >= node.tokens:
            prefill = 0 if node.is_cached else node.result_tokens
            node.is_cached = True
            node, start = self._world.visit_child(node), 0
        tokens = min(request.max_tokens, node.tokens - start)
        loop = asyncio.get_running_loop()
        sequence = _Sequence(tokens, prefill, loop.create_future())
        self._waiting.append(sequence)
        self._meet_arrival(loop)
        await sequence.done
        node.generated += tokens
        self.generated_tokens += tokens
        return Generation(
            node.token_range(start, start + tokens),
            [-node.entropy] * tokens,
            entropies=[node.entropy] * min(tokens, request.entropy_tokens),
            is_at_limit=start + tokens < node.tokens,
            cached_tokens=len(request.token_ids) - prefill,
        )

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
            sequence = self._waiting.popleft()
            heapq.heappush(self._running, (self._step + sequence.tokens, self._admitted, sequence))
            self._admitted += 1
            prefill += sequence.prefill
        self.prefilled_tokens += prefill
        self._run_start = loop.time() + prefill * self._speed.prefill_seconds
        if self._running:
            steps = self._running[0][0] - self._step
            self._set_timer(loop, self._running[0][0], self._run_start + steps * self._step_seconds)


def lower_bound(world: World, engine: SimulatedEngine, speed: EngineSpeed, sequences: int) -> float:
    """Return seconds that no schedule of the same turns and calls can go below.

    The larger of the longest chain of turns and calls of one leaf, run alone, and of the engine's work with as many of
    `sequences` at the same time as it takes, always.
    """
    ends: list[float] = []
    for node in world.nodes:
        seconds = node.generated * (speed.step_seconds + speed.sequence_seconds)
        if node.parent is not None:
            seconds += ends[node.parent.index] + node.parent.result_tokens * speed.prefill_seconds
        ends.append(seconds + (node.latency if node.is_called else 0.0))
    step_share = speed.step_seconds / min(sequences, speed.max_sequences)
    work = engine.generated_tokens * (step_share + speed.sequence_seconds)
    return max(max(ends), work + engine.prefilled_tokens * speed.prefill_seconds)
