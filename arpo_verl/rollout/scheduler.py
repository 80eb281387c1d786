"""ARPO's rollout of one prompt (arXiv 2507.19849, algorithm 1).

N roots start from the prompt. After a tool result the entropy of the first k sampled tokens, against that of the
root's first k tokens, decides whether new leaves fork at the end of the result. When the living leaves can no longer
bring the leaves still missing, the difference starts from the prompt at once. Exactly n leaves come out; none is
duplicated, none dropped.

Two schedules take the same steps. `async` runs one asyncio task a leaf: a fork starts at the moment that its parent's
probe is read, and nothing waits for the slowest generation or the slowest tool. `lockstep` advances all leaves of the
prompt in rounds and decides in order of their numbers, so that the same seed gives the same tree.

Differences from the released code: k fresh tokens are watched after the result (there, and under `rule=reference`: the
tokens of the step before it); H_initial belongs to the leaf's own root (there: to a batch position, for ever, so that
from its second batch on it is that of an older prompt); top-ups start when they have become certain and all together
(there: one a round, serially). That code has a branch that would copy a prompt's last leaf; it is never reached, as the
top-ups come before it.
"""

import contextlib
import random
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, replace
from typing import Any

from arpo_verl.branching import (
    branch_score,
    certain_top_ups,
    draw_forks,
    draw_reference_forks,
    possible_forks,
)
from arpo_verl.config import ArpoConfig
from arpo_verl.entropy import entropy_change, reference_entropy_change, surprisals
from arpo_verl.rollout.calls import NO_LIMIT, CallExecutor
from arpo_verl.rollout.protocols import CallSyntax, Engine, Generation, Request, ToolCall, Tools, Turn
from arpo_verl.rollout.seeds import derived_seed
from arpo_verl.rollout.tasks import Tasks
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
    max_tool_turns: int | None = None
    """Turns of one leaf that may call tools; None is no limit beside `arpo.max_tool_calls`."""
    max_parallel_calls: int = 1
    """Calls that one turn may make; the rest is not executed."""


@dataclass(frozen=True)
class Surroundings:
    """The outside world of a rollout."""

    engine: Engine
    tools: Tools
    syntax: CallSyntax
    on_leaf: Callable[[Leaf], Coroutine[Any, Any, None]]
    """Called once for each finished leaf, while others still grow."""
    request_slot: contextlib.AbstractAsyncContextManager[Any] = NO_LIMIT
    """Held during a generation request: a semaphore bounds those in flight."""
    call_slot: contextlib.AbstractAsyncContextManager[Any] = NO_LIMIT
    """Held during a tool call."""


@dataclass(frozen=True)
class TurnStart:
    """The first part of a turn."""

    generation: Generation
    rest: int
    """Tokens that may still be asked for; 0 where the turn is complete."""
    is_watched: bool
    """The entropies of its first tokens were asked for."""


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
        self._calls = CallExecutor(surroundings.tools, config, surroundings.call_slot)
        self._is_lockstep = config.schedule == "lockstep"
        self._created = 0
        self._roots = 0
        self._living: dict[int, Leaf] = {}
        self._tasks = Tasks()

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
            await (self._grow_in_rounds() if self._is_lockstep else self._tasks.join())
        finally:
            await self._tasks.close()

    @property
    def _missing(self) -> int:
        return self._settings.leaves - self._created

    def _start_root(self, is_top_up: bool) -> None:
        path = str(self._roots)
        self._roots += 1
        request_id = f"{self._settings.seed}/{path}"
        self._start(Leaf(number=self._created, path=path, request_id=request_id, is_top_up=is_top_up))

    def _start(self, leaf: Leaf) -> None:
        self._created += 1
        self._living[leaf.number] = leaf
        if not self._is_lockstep:
            self._tasks.start(self._grow(leaf))

    def _top_up(self) -> None:
        """Start from the prompt the leaves that forks can no longer bring."""
        possible = [
            possible_forks(self._decisions_left(leaf), self._config.branch_factor, self._settings.leaves)
            for leaf in self._living.values()
        ]
        for _ in range(certain_top_ups(self._missing, possible)):
            self._start_root(is_top_up=True)

    def _decisions_left(self, leaf: Leaf) -> int:
        return self._turns_left(leaf) + leaf.is_at_fork_point if leaf.is_forkable else 0

    def _turns_left(self, leaf: Leaf) -> int:
        """Turns in which the leaf may still call tools."""
        calls, limit = self._config.max_tool_calls - leaf.tool_calls, self._settings.max_tool_turns
        return max(0, calls if limit is None else min(calls, limit - leaf.tool_turns))

    async def _grow(self, leaf: Leaf) -> None:
        """The `async` schedule of one leaf."""
        while leaf.stop_reason is None:
            self._decide_by_last_step(leaf)
            start = await self._begin_turn(leaf)
            self._read_entropies(leaf, start)
            await self._end_turn(leaf, start)
            if leaf.stop_reason is not None:
                del self._living[leaf.number]
            self._top_up()
        await self._world.on_leaf(leaf)

    async def _grow_in_rounds(self) -> None:
        """The `lockstep` schedule of all leaves. Leaves that are created in a round begin with the next one."""
        while self._living:
            for leaf in list(self._living.values()):
                self._decide_by_last_step(leaf)
            leaves = list(self._living.values())
            starts = await self._all(self._begin_turn(leaf) for leaf in leaves)
            for leaf, start in zip(leaves, starts, strict=True):
                self._read_entropies(leaf, start)
            await self._all(self._end_turn(leaf, start) for leaf, start in zip(leaves, starts, strict=True))
            ended = [leaf for leaf in leaves if leaf.stop_reason is not None]
            for leaf in ended:
                del self._living[leaf.number]
            self._top_up()
            await self._all(self._world.on_leaf(leaf) for leaf in ended)

    async def _all(self, steps: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
        """Take steps at the same time and return their results in order."""
        tasks = [self._tasks.start(step) for step in steps]
        await self._tasks.join()
        return [task.result() for task in tasks if task is not None]

    async def _begin_turn(self, leaf: Leaf) -> TurnStart:
        """Sample the first k tokens of a turn where they are watched, else the whole turn."""
        room = self._room(leaf)
        is_watched = self._is_watched(leaf)
        asked = min(self._config.probe_tokens, room) if is_watched and self._is_probed(leaf) else room
        generation = await self._ask(leaf, [], asked, self._config.probe_tokens if is_watched else 0)
        is_short = len(generation.token_ids) < asked
        is_over = asked == room or is_short or await self._world.syntax.is_over(generation.token_ids)
        return TurnStart(generation, 0 if is_over else room - asked, is_watched)

    def _is_open(self, leaf: Leaf) -> bool:
        """Whether the next tokens decide about branching."""
        return leaf.is_at_fork_point and leaf.is_forkable and self._missing > 0 and self._config.rule != "reference"

    def _is_probed(self, leaf: Leaf) -> bool:
        """Whether the watched tokens have a request of their own: where a decision waits for them, and where the server
        would otherwise measure the whole turn."""
        if self._config.branch_timing != "probe" or self._config.rule == "reference":
            return False
        return self._is_open(leaf) or self._config.entropy_source == "topk"

    def _is_watched(self, leaf: Leaf) -> bool:
        if self._settings.roots == self._settings.leaves:
            return False
        is_first = leaf.initial_entropies is None
        return is_first or self._is_open(leaf) or self._config.rule == "reference"

    async def _ask(self, leaf: Leaf, begun: list[int], max_tokens: int, entropy_tokens: int = 0) -> Generation:
        """Send one request; `begun` is what the turn has so far."""
        request = Request(
            token_ids=self._settings.prompt_ids + leaf.token_ids + begun,
            max_tokens=max_tokens,
            request_id=leaf.request_id,
            entropy_tokens=entropy_tokens if self._config.entropy_source == "topk" else 0,
            seed=self._sampling_seed(leaf) if self._is_lockstep else None,
        )
        leaf.requests += 1
        leaf.requested_tokens += len(request.token_ids)
        async with self._world.request_slot:
            generation = await self._world.engine.generate(request)
        leaf.cached_tokens += generation.cached_tokens or 0
        return generation

    def _sampling_seed(self, leaf: Leaf) -> int:
        return derived_seed(f"{self._settings.seed}/{leaf.path}/{leaf.requests}")

    def _room(self, leaf: Leaf) -> int:
        return self._settings.max_response_tokens - leaf.length

    def _read_entropies(self, leaf: Leaf, start: TurnStart) -> None:
        """Keep a leaf's first entropies as H_initial; at a fork point, decide about branching."""
        if not start.is_watched:
            return
        leaf.step_entropies = self._entropies(start.generation)
        if leaf.initial_entropies is None:
            leaf.initial_entropies = leaf.step_entropies
        elif leaf.is_at_fork_point and leaf.step_entropies and self._config.rule != "reference":
            change = entropy_change(leaf.step_entropies, leaf.initial_entropies, self._settings.vocabulary_size)
            self._decide(leaf, change)

    def _entropies(self, generation: Generation) -> list[float]:
        if self._config.entropy_source == "surprisal":
            return surprisals(generation.logprobs[: self._config.probe_tokens])
        expected = min(self._config.probe_tokens, len(generation.token_ids))
        if generation.entropies is None or len(generation.entropies) < expected:
            raise RuntimeError(
                f"the inference server returned the entropies {generation.entropies}; expected {expected} of them: set "
                f"arpo.entropy_source=surprisal, which works with any server"
            )
        return generation.entropies[:expected]

    def _decide_by_last_step(self, leaf: Leaf) -> None:
        """Decide as the released code does, by the entropies of the step that ended in the call."""
        if self._config.rule == "reference" and leaf.is_at_fork_point and self._missing > 0:
            initial = leaf.initial_entropies or []
            change = reference_entropy_change(leaf.step_entropies, initial, self._settings.vocabulary_size)
            self._decide(leaf, change)

    def _decide(self, leaf: Leaf, change: float) -> None:
        """Fork at the end of the tool result, within the budget."""
        config, entropies = self._config, leaf.step_entropies
        score = branch_score(change, config.base_probability, config.entropy_weight)
        node = f"{leaf.path}.{leaf.tool_calls}"
        generator = random.Random(f"{self._settings.seed}/{node}")
        candidates = config.branch_factor - 1 if leaf.is_forkable else 0
        if config.rule == "reference":
            places = min(candidates, self._missing)
            forks = draw_reference_forks(change, config.base_probability, config.entropy_weight, places, generator)
        else:
            drawn = draw_forks(score, config.rule, config.branch_threshold, candidates, generator)
            forks = min(drawn, self._missing)
        for fork in range(forks):
            branch = leaf.fork(self._created, path=f"{node}.{fork}")
            if config.rule == "reference":
                branch.initial_entropies = None
            self._start(branch)
        mean = sum(entropies) / len(entropies) if entropies else 0.0
        leaf.decisions.append(Decision(mean, change, score, forks))
        leaf.is_at_fork_point = False
        self._top_up()

    async def _end_turn(self, leaf: Leaf, start: TurnStart) -> None:
        """Sample the rest of a turn, keep it, and answer its calls."""
        generation = start.generation
        if start.rest:
            generation = _join(generation, await self._ask(leaf, generation.token_ids, start.rest))
        leaf.engine_versions = generation.weight_versions
        turn = await self._world.syntax.read_turn(generation.token_ids) if generation.token_ids else Turn([], 0)
        if turn.used:
            sampled = _first_tokens(generation, turn.used)
            self._append(leaf, sampled.token_ids, sampled.logprobs, weight_versions=sampled.weight_versions)
        if turn.message is not None:
            leaf.messages.append(turn.message)
        if not turn.calls:
            leaf.stop_reason = self._why_it_ended(leaf, generation)
        elif self._room(leaf) == 0:
            leaf.stop_reason = StopReason.LENGTH
        elif not self._turns_left(leaf):
            leaf.stop_reason = StopReason.TOOL_LIMIT
        elif not self._is_late(leaf):
            await self._answer(leaf, turn.calls)
        if leaf.stop_reason is None and self._is_late(leaf):
            leaf.stop_reason = StopReason.TIME_LIMIT

    def _is_late(self, leaf: Leaf) -> bool:
        return self._calls.seconds_left(leaf) <= 0

    def _append(
        self,
        leaf: Leaf,
        token_ids: list[int],
        logprobs: list[float] | None = None,
        weight_versions: tuple[int, int] | None = None,
        calls: tuple[ToolRecord, ...] = (),
    ) -> None:
        """Append a segment; without log-probabilities it is a tool result."""
        is_sampled = logprobs is not None
        segment = Segment(
            # Unique without a common counter, which would make the ids depend on the order of arrival.
            id=leaf.number + self._settings.leaves * leaf.own_segments,
            token_ids=token_ids,
            is_sampled=is_sampled,
            logprobs=logprobs if logprobs is not None else [0.0] * len(token_ids),
            weight_versions=weight_versions,
            calls=calls,
        )
        leaf.own_segments += 1
        leaf.segments.append(segment)

    def _why_it_ended(self, leaf: Leaf, generation: Generation) -> StopReason:
        if generation.is_interrupted:
            return StopReason.INTERRUPTED
        if not generation.token_ids:
            return StopReason.EMPTY
        if self._world.syntax.ends_answer(generation.token_ids[-1]):
            return StopReason.COMPLETED
        is_at_limit = generation.is_at_limit or self._room(leaf) == 0
        return StopReason.LENGTH if is_at_limit else StopReason.INTERRUPTED

    async def _answer(self, leaf: Leaf, asked: list[ToolCall]) -> None:
        """Execute the calls of a turn and append their results, cut to what the budget leaves."""
        calls = asked[: min(self._settings.max_parallel_calls, self._config.max_tool_calls - leaf.tool_calls)]
        leaf.tool_calls += len(calls)
        leaf.tool_turns += 1
        leaf.is_at_fork_point = True
        leaf.is_forkable = leaf.is_forkable and all(self._world.tools.can_fork(call.name) for call in calls)
        answers, records = await self._calls.execute(leaf, calls)
        context = self._settings.prompt_ids + leaf.token_ids
        rendered = await self._world.syntax.render_results(context, leaf.messages, answers)
        leaf.messages.extend(rendered.messages)
        leaf.drop_last(rendered.removed)
        room = self._room(leaf)
        leaf.is_result_cut = leaf.is_result_cut or len(rendered.token_ids) > room
        self._append(leaf, rendered.token_ids[:room], calls=tuple(records))
        if len(rendered.token_ids) >= room:
            leaf.stop_reason = StopReason.LENGTH


def _first_tokens(generation: Generation, tokens: int) -> Generation:
    return replace(generation, token_ids=generation.token_ids[:tokens], logprobs=generation.logprobs[:tokens])


def _join(first: Generation, second: Generation) -> Generation:
    versions = [versions for versions in (first.weight_versions, second.weight_versions) if versions is not None]
    return Generation(
        token_ids=first.token_ids + second.token_ids,
        logprobs=first.logprobs + second.logprobs,
        weight_versions=(min(low for low, _ in versions), max(high for _, high in versions)) if versions else None,
        is_interrupted=second.is_interrupted,
        is_at_limit=second.is_at_limit,
    )
