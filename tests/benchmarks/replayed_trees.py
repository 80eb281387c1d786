"""What a batch's rollout would have taken under other conditions: its trees are run once more with some waits gone.

A replay knows the trees: which turns were sampled, how long they and their calls were. It has the same engines and
tools, and keeps to what follows what. One condition after the other is eased, so that the differences add up.
"""

import asyncio
from dataclasses import dataclass, replace

from simulated_engine import EngineSpeed, SimulatedEngine, least_loaded
from simulated_world import Node, World
from virtual_clock import run

ADMITTED = (64, 128, 512)
"""Sequences that an engine runs at the same time, tried by `foresight`."""


@dataclass(frozen=True)
class Relaxation:
    """How a replay differs from the rollout. In all of them a fork starts with its parent's next turn, as one request,
    and a tree stays where its root is."""

    starts_at_once: bool = False
    """Top-ups start with the batch."""
    any_replica: bool = False
    """Each turn goes to the replica with the fewest requests, and all have one prefix cache."""
    longest_first: bool = False
    """Of the turns that queue the one with the longest chain to come is next."""


class Replay:
    """Runs the turns of a batch once more. Single use."""

    def __init__(self, world: World, speed: EngineSpeed, replicas: int, relaxation: Relaxation) -> None:
        self._relaxation = relaxation
        shared = relaxation.any_replica
        self._engines = [SimulatedEngine(world, speed, 0 if shared else number) for number in range(replicas)]
        self._children: dict[int, list[Node]] = {}
        self._roots = []
        for node in world.nodes:
            node.sampled_on = node.cached_on = 0
            if node.parent is not None:
                self._children.setdefault(node.parent.index, []).append(node)
                if node.parent.parent is None:
                    self._roots.append((node, 0.0 if relaxation.starts_at_once else node.asked))
        self._rest = chains_to_come(world, speed)

    async def run(self) -> None:
        await asyncio.gather(*(self._start(node, start) for node, start in self._roots))

    async def _start(self, node: Node, start: float) -> None:
        await asyncio.sleep(start)
        await self._grow(node, self._place(None))

    def _place(self, place: int | None) -> int:
        return least_loaded(self._engines)[0] if place is None or self._relaxation.any_replica else place

    async def _grow(self, node: Node, place: int) -> None:
        rank = -self._rest[node.index] if self._relaxation.longest_first else 0.0
        await self._engines[place].sample(node, 0, node.generated, rank)
        if node.is_called:
            await asyncio.sleep(node.latency)
        children = self._children.get(node.index, ())
        if len(children) == 1:
            await self._grow(children[0], self._place(place))
        elif children:
            await asyncio.gather(*(self._grow(child, self._place(place)) for child in children))


def replay(world: World, speed: EngineSpeed, replicas: int, relaxation: Relaxation) -> float:
    """Return the virtual seconds of a replay; the times of the turns stay those of the rollout."""
    times = [(node.asked, node.ended, node.queued) for node in world.nodes]
    _, seconds = run(Replay(world, speed, replicas, relaxation).run())
    for node, time in zip(world.nodes, times, strict=True):
        node.asked, node.ended, node.queued = time
    return seconds


def foresight(world: World, speed: EngineSpeed, replicas: int) -> float:
    """Return the virtual seconds of the best schedule found that knows all turns and calls before it starts.

    It starts all roots at once, on any replica, admits few at a time, and those first that have the longest chain to
    come: as some schedule takes so long, no lower bound is above it.
    """
    relaxation = Relaxation(starts_at_once=True, any_replica=True, longest_first=True)
    return min(replay(world, replace(speed, max_sequences=most), replicas, relaxation) for most in ADMITTED)


def chains_to_come(world: World, speed: EngineSpeed) -> list[float]:
    """Return for each node the seconds of the longest chain from it on, with an engine to itself."""
    longest = [0.0] * len(world.nodes)
    for node in reversed(world.nodes):
        longest[node.index] += speed.alone(node.generated) + (node.latency if node.is_called else 0.0)
        if node.parent is not None:
            longest[node.parent.index] = max(longest[node.parent.index], longest[node.index])
    return longest


@dataclass(frozen=True)
class LastLeaf:
    """Where the seconds of the leaf went that ended last; they add up to the makespan."""

    tools: float
    alone: float
    """Its tokens, had it had the engine to itself."""
    shared: float
    """The same steps, longer because others run in them, and prefills."""
    queued: float
    root_late: float
    """Until its root started."""
    fork_late: float
    """From tool results to the first request of the fork."""


def last_leaf(world: World, speed: EngineSpeed) -> LastLeaf:
    """Return where the seconds of a rollout's last leaf went, from its end back to its root."""
    node = max(world.nodes, key=_over)
    tools = _over(node) - node.ended  # a result that spends the leaf's tokens is its end
    alone = shared = queued = root_late = fork_late = 0.0
    while node.parent is not None:
        alone += speed.alone(node.generated)
        shared += node.ended - node.asked - node.queued - speed.alone(node.generated)
        queued += node.queued
        above = node.parent
        if above.parent is None:
            root_late += node.asked
        else:
            tools += above.latency
            fork_late += node.asked - _over(above)
        node = above
    return LastLeaf(tools, alone, shared, queued, root_late, fork_late)


def _over(node: Node) -> float:
    """Return when a turn and its call were over."""
    return node.ended + (node.latency if node.is_called else 0.0)
