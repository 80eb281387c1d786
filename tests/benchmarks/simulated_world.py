"""A simulated policy and its tools, for any schedule that runs on a virtual clock.

The policy is an infinite tree of turns. A turn's children are its possible continuations after the tool's result; the
k-th time that a context is continued its k-th child is visited, and what a child is follows from the seed and its place
in the tree alone. So all schedules meet the same model: the first root of a prompt is the same turn under each of them.

The last token of each piece of text says which turn it belongs to and at which position, the tool's result counted on
after the turn: an engine needs the last token of a context alone. The others are the number 0, which nobody looks at.
"""

import asyncio
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from arpo_verl.rollout.protocols import RenderedResults, ToolAnswer, ToolCall, Turn

POSITIONS = 1 << 14
"""More than a turn and its result have tokens."""


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
    """The share of calls whose latency is slow_seconds * u^(-1/slow_exponent), u uniform, instead."""
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
    """The place of the prompt: where it stands in the policy's ranges, from 0 to 1."""
    depth: int
    """Calls made before this turn."""
    children: int = 0
    generated: int = 0
    """How many of the tokens a schedule has sampled."""
    is_called: bool = False
    """A schedule has executed the call."""
    asked: float = 0.0
    """When its first token was asked for, in virtual seconds."""
    ended: float = 0.0
    """When its last token was there."""
    queued: float = 0.0
    """Seconds that its requests have waited for a place in a batch, or for a step to end."""
    sampled_on: int = 0
    """Replicas that have its tokens in their prefix cache, a bit each."""
    cached_on: int = 0
    """Replicas that have its result and all before it in their prefix cache, a bit each."""

    def token(self, position: int) -> int:
        return self.index * POSITIONS + position

    def token_range(self, start: int, end: int) -> list[int]:
        return [0] * (end - start - 1) + [self.token(end - 1)] if end > start else []


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
