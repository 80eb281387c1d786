"""ARPO's rollout of one prompt (arXiv 2507.19849, algorithm 1), as asyncio tasks, one a living leaf.

N roots start from the prompt. After a tool result the first k sampled tokens are read before the rest of the turn is
asked for; their entropy, against that of the root's first k tokens, decides whether new leaves fork at the end of the
result. A fork starts at that moment; nothing waits for the slowest generation or the slowest tool. When the living
leaves can no longer bring the leaves still missing, the difference starts from the prompt at once. Exactly n leaves
come out; none is duplicated, none dropped.

Differences from the released code: k fresh tokens are watched after the result (there: the tokens before it);
H_initial belongs to the leaf's own root (there: to a batch position, for ever); top-ups start when they have become
certain and all together (there: one a round, and at last a copy).
"""

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from arpo_verl.branching import branch_score, certain_top_ups, draw_forks, possible_forks
from arpo_verl.config import ArpoConfig
from arpo_verl.entropy import entropy_change, surprisals
from arpo_verl.rollout.protocols import CallSyntax, Engine, Generation, ToolAnswer, ToolCall, Tools
from arpo_verl.rollout.tree import Decision, Leaf, Segment, StopReason, ToolRecord


@dataclass(frozen=True)
class RolloutSettings:
    """What one prompt's rollout needs to know beside its surroundings."""

    prompt_ids: list[int]
    leaves: int
    """n, how many leaves come out."""
    roots: int
    """N, how many of them start from the prompt; n means that nothing branches."""
    max_response_tokens: int
    """Token budget of each leaf: sampled tokens and tool results."""
    vocabulary_size: int
    seed: str
    """Seeds every draw of this prompt together with the leaf's path: same seed, same draws at the same node."""


@dataclass(frozen=True)
class Surroundings:
    """The outside world of a rollout."""

    engine: Engine
    tools: Tools
    syntax: CallSyntax
    on_leaf: Callable[[Leaf], Awaitable[None]]
    """Called once for each finished leaf, while others still grow."""


class PromptRollout:
    """Grows the tree of one prompt. Single use: no state outlives the prompt."""

    def __init__(self, settings: RolloutSettings, config: ArpoConfig, surroundings: Surroundings) -> None:
        if not 1 <= settings.roots <= settings.leaves:
            raise ValueError(f"roots={settings.roots}; expected 1 to leaves={settings.leaves}: change it")
        if settings.max_response_tokens < 1:
            raise ValueError(
                f"max_response_tokens={settings.max_response_tokens}; expected at least 1: shorten the prompt "
                f"({len(settings.prompt_ids)} tokens) or raise the response length"
            )
        self._settings = settings
        self._config = config
        self._world = surroundings
        self._segment_ids = itertools.count()
        self._created = 0
        self._roots = 0
        self._living: dict[int, Leaf] = {}
        self._undecided: set[int] = set()
        """Leaves that count a call whose fork point has not been decided about."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended: asyncio.Queue[asyncio.Task[None]] = asyncio.Queue()
        self._is_closed = False

    async def run(self) -> None:
        """Grow all leaves and hand each to `on_leaf`.

        Raises:
            Exception: whatever the engine or `on_leaf` raised; the other leaves are cancelled first, so that nothing
                of this prompt goes on afterwards.
        """
        try:
            for _ in range(self._settings.roots):
                self._start_root(is_top_up=False)
            self._top_up()
            while self._tasks:
                task = await self._ended.get()
                self._tasks.discard(task)
                if task.cancelled():
                    # Passed on as it is, it would look as if somebody had cancelled the whole rollout.
                    raise RuntimeError("a tool or the engine raised CancelledError; expected an answer or an error")
                task.result()
        finally:
            self._is_closed = True
            while self._tasks:
                for task in self._tasks:
                    task.cancel()
                _, self._tasks = await asyncio.wait(self._tasks)

    @property
    def _missing(self) -> int:
        return self._settings.leaves - self._created

    def _start_root(self, is_top_up: bool) -> None:
        path = str(self._roots)
        self._roots += 1
        request_id = f"{self._settings.seed}/{path}"
        self._start(Leaf(number=self._created, path=path, request_id=request_id, is_top_up=is_top_up))

    def _start(self, leaf: Leaf) -> None:
        if self._is_closed:
            return
        self._created += 1
        self._living[leaf.number] = leaf
        task = asyncio.create_task(self._grow(leaf))
        self._tasks.add(task)
        task.add_done_callback(self._ended.put_nowait)

    def _top_up(self) -> None:
        """Start from the prompt the leaves that forks can no longer bring."""
        possible = [
            possible_forks(self._decisions_left(leaf), self._config.branch_factor, self._settings.leaves)
            for leaf in self._living.values()
        ]
        for _ in range(certain_top_ups(self._missing, possible)):
            self._start_root(is_top_up=True)

    def _decisions_left(self, leaf: Leaf) -> int:
        return self._config.max_tool_calls - leaf.tool_calls + (leaf.number in self._undecided)

    async def _grow(self, leaf: Leaf) -> None:
        while leaf.stop_reason is None:
            await self._take_turn(leaf)
        del self._living[leaf.number]
        self._undecided.discard(leaf.number)
        self._top_up()
        await self._world.on_leaf(leaf)

    async def _take_turn(self, leaf: Leaf) -> None:
        """Let the model write until it calls a tool or ends, then answer the call."""
        turn = await self._generate(leaf)
        leaf.engine_versions = turn.weight_versions
        found = self._world.syntax.find_call(turn.token_ids)
        used = len(turn.token_ids) if found is None else found[1]
        if used:
            segment = Segment(
                id=next(self._segment_ids),
                token_ids=turn.token_ids[:used],
                is_sampled=True,
                logprobs=turn.logprobs[:used],
                weight_versions=turn.weight_versions,
            )
            leaf.segments.append(segment)
        if found is None:
            leaf.stop_reason = self._why_it_ended(leaf, turn)
        elif leaf.tool_calls >= self._config.max_tool_calls:
            leaf.stop_reason = StopReason.TOOL_LIMIT
        else:
            await self._answer(leaf, found[0])

    async def _generate(self, leaf: Leaf) -> Generation:
        """Sample one turn. At an open fork point the first k tokens come first, and the branching decision with
        them."""
        context = self._settings.prompt_ids + leaf.token_ids
        room = self._room(leaf)
        is_probe = leaf.number in self._undecided and self._missing > 0
        asked = min(self._config.probe_tokens, room) if is_probe else room
        turn = await self._world.engine.generate(context, asked, leaf.request_id)
        self._read_entropies(leaf, turn.logprobs)
        if len(turn.token_ids) < asked or asked == room or self._has_ended(turn.token_ids):
            return turn
        rest = await self._world.engine.generate(context + turn.token_ids, room - asked, leaf.request_id)
        return _join(turn, rest)

    def _has_ended(self, turn: list[int]) -> bool:
        return self._world.syntax.ends_answer(turn[-1]) or self._world.syntax.find_call(turn) is not None

    def _room(self, leaf: Leaf) -> int:
        return self._settings.max_response_tokens - leaf.length

    def _why_it_ended(self, leaf: Leaf, turn: Generation) -> StopReason:
        if turn.is_interrupted:
            return StopReason.INTERRUPTED
        if not turn.token_ids:
            return StopReason.EMPTY
        if self._world.syntax.ends_answer(turn.token_ids[-1]):
            return StopReason.COMPLETED
        return StopReason.LENGTH if self._room(leaf) == 0 else StopReason.INTERRUPTED

    def _read_entropies(self, leaf: Leaf, logprobs: list[float]) -> None:
        """Keep a root's first entropies as H_initial; at a fork point, decide about branching."""
        entropies = surprisals(logprobs[: self._config.probe_tokens])
        if not leaf.segments:
            leaf.initial_entropies = entropies
        elif leaf.number in self._undecided and entropies:
            self._decide(leaf, entropies)

    def _decide(self, leaf: Leaf, entropies: list[float]) -> None:
        """Fork at the end of the tool result, within the budget."""
        config = self._config
        change = entropy_change(entropies, leaf.initial_entropies, self._settings.vocabulary_size)
        score = branch_score(change, config.base_probability, config.entropy_weight)
        node = f"{leaf.path}.{leaf.tool_calls}"
        generator = random.Random(f"{self._settings.seed}/{node}")
        forks = draw_forks(score, config.rule, config.branch_threshold, config.branch_factor - 1, generator)
        forks = min(forks, self._missing)
        for fork in range(forks):
            self._start(leaf.fork(self._created, path=f"{node}.{fork}", fork_point=len(leaf.segments)))
        leaf.decisions.append(Decision(sum(entropies) / len(entropies), change, score, forks))
        self._undecided.discard(leaf.number)
        self._top_up()

    async def _answer(self, leaf: Leaf, call: ToolCall) -> None:
        """Execute a call and append its result, cut to what the budget leaves."""
        leaf.tool_calls += 1
        self._undecided.add(leaf.number)
        start = time.monotonic()
        answer = ToolAnswer(call.error, "model_error") if call.error else await self._world.tools.execute(call)
        latency = time.monotonic() - start
        token_ids = self._world.syntax.encode_result(answer.text)
        room = self._room(leaf)
        leaf.is_result_cut = leaf.is_result_cut or len(token_ids) > room
        token_ids = token_ids[:room]
        segment = Segment(
            id=next(self._segment_ids),
            token_ids=token_ids,
            is_sampled=False,
            logprobs=[0.0] * len(token_ids),
            tool=ToolRecord(call.name, answer.status, latency),
        )
        leaf.segments.append(segment)
        if len(token_ids) == room:
            leaf.stop_reason = StopReason.LENGTH


def _join(first: Generation, second: Generation) -> Generation:
    versions = [versions for versions in (first.weight_versions, second.weight_versions) if versions is not None]
    return Generation(
        token_ids=first.token_ids + second.token_ids,
        logprobs=first.logprobs + second.logprobs,
        weight_versions=(min(low for low, _ in versions), max(high for _, high in versions)) if versions else None,
        is_interrupted=second.is_interrupted,
    )
