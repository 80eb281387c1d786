"""The turns of a leaf: sample, parse the calls, execute them, and determine why the leaf has ended."""

import contextlib
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from arpo_verl.config import ArpoConfig
from arpo_verl.rollout.calls import NO_LIMIT, CallExecutor
from arpo_verl.rollout.protocols import (
    CallSyntax,
    EntropyMeasure,
    Generation,
    GenerationRequest,
    InferenceEngine,
    LeafStates,
    ToolCall,
    Tools,
    Turn,
)
from arpo_verl.rollout.seeds import derived_seed
from arpo_verl.rollout.states import DEEP_COPIES
from arpo_verl.rollout.tree import ExecutedCall, Leaf, Segment, StopReason, is_infrastructure


@dataclass(frozen=True)
class RolloutSettings:
    """The settings of one prompt's rollout."""

    prompt_ids: list[int]
    leaves: int
    """n, the number of leaves that the rollout returns."""
    max_response_tokens: int
    """Token budget of each leaf: sampled tokens and tool results."""
    vocabulary_size: int
    seed: str
    """Seeds every draw of this prompt together with the leaf's path: same seed, same draws at the same node."""
    max_tool_turns: int | None = None
    """The number of turns of one leaf that may call tools; None is no limit beside `arpo.max_tool_calls`."""
    max_parallel_calls: int = 1
    """The number of calls that one turn may make; the rest is not executed."""
    source: str = ""
    """The prompt's `data_source`, for rules that look at it."""


@dataclass(frozen=True)
class RolloutServices:
    """The services that a rollout calls."""

    engine: InferenceEngine
    tools: Tools
    syntax: CallSyntax
    on_leaf: Callable[[Leaf], Coroutine[Any, Any, None]]
    """Called once for each finished leaf, while others still grow."""
    request_slot: contextlib.AbstractAsyncContextManager[Any] = NO_LIMIT
    """A context that is held during a generation request; a semaphore bounds the requests in flight."""
    call_slot: contextlib.AbstractAsyncContextManager[Any] = NO_LIMIT
    """A context that is held during a tool call."""
    score: Callable[[Leaf], Coroutine[Any, Any, None]] | None = None
    """Sets a finished leaf's `reward`, for rules that need it; takes a limited time and never raises. None: rewards are
    not known during the rollout."""
    states: LeafStates = DEEP_COPIES
    """Copies the tools' state of a leaf that forks, and ends that of a leaf that has ended."""


@dataclass(frozen=True)
class TurnStart:
    """The first part of a turn."""

    generation: Generation
    rest: int
    """The number of tokens that may still be requested; 0 where the turn is complete."""
    asked: float
    """When the turn's first request was made, in seconds since 1970."""
    waited_seconds: float
    """The leaf's `waited_seconds` before it."""


class TurnRunner:
    """Runs the turns of one prompt's leaves; decides nothing about the tree."""

    def __init__(
        self, settings: RolloutSettings, config: ArpoConfig, services: RolloutServices, measure: EntropyMeasure
    ) -> None:
        """
        Args:
            settings: the settings of the prompt's rollout.
            config: the knobs.
            services: engine, tools and syntax.
            measure: how the inference engine computes entropies.
        """
        self._settings = settings
        self._config = config
        self._services = services
        self._measure = measure
        self._calls = CallExecutor(services.tools, config, services.call_slot)

    def tokens_left(self, leaf: Leaf) -> int:
        return self._settings.max_response_tokens - leaf.length

    def turns_left(self, leaf: Leaf) -> int:
        """Return the number of turns in which a leaf may still call tools."""
        calls, limit = self._config.max_tool_calls - leaf.tool_calls, self._settings.max_tool_turns
        return max(0, calls if limit is None else min(calls, limit - leaf.tool_turns))

    async def begin(self, leaf: Leaf, watched: int, is_probed: bool) -> TurnStart:
        """Sample a turn, or its beginning alone.

        Args:
            leaf: the leaf whose turn it is.
            watched: the number of first tokens at which the entropy is measured.
            is_probed: whether to request no more than those tokens now.
        """
        left, began, waited = self.tokens_left(leaf), time.time(), leaf.waited_seconds
        asked = min(watched, left) if is_probed else left
        generation = await self._request(leaf, [], asked, watched)
        is_short = len(generation.token_ids) < asked
        is_over = asked == left or is_short or await self._services.syntax.is_over(generation.token_ids)
        return TurnStart(generation, 0 if is_over else left - asked, began, waited)

    async def _request(self, leaf: Leaf, begun: list[int], max_tokens: int, watched: int = 0) -> Generation:
        """Send one request; `begun` are the tokens that the turn has so far."""
        is_measured = watched > 0 and self._config.entropy_source == "topk"
        request = GenerationRequest(
            token_ids=self._settings.prompt_ids + leaf.token_ids + begun,
            max_tokens=max_tokens,
            request_id=leaf.request_id,
            entropy_tokens=watched if is_measured else 0,
            entropy_measure=self._measure if is_measured else None,
            seed=self._sampling_seed(leaf) if self._config.schedule == "lockstep" else None,
        )
        leaf.requests += 1
        leaf.requested_tokens += len(request.token_ids)
        before = time.monotonic()
        async with self._services.request_slot:
            leaf.waited_seconds += time.monotonic() - before
            generation = await self._services.engine.generate(request)
        leaf.cached_tokens += generation.cached_tokens or 0
        return generation

    def _sampling_seed(self, leaf: Leaf) -> int:
        return derived_seed(f"{self._settings.seed}/{leaf.path}/{leaf.requests}")

    async def end(self, leaf: Leaf, start: TurnStart) -> None:
        """Sample the rest of a turn, append it to the leaf, and execute its calls."""
        generation = start.generation
        if start.rest:
            generation = _join(generation, await self._request(leaf, generation.token_ids, start.rest))
        leaf.engine_versions = generation.weight_versions
        turn = await self._services.syntax.read_turn(generation.token_ids) if generation.token_ids else Turn([], 0)
        if turn.used:
            sampled = _first_tokens(generation, turn.used)
            self._append(leaf, sampled.token_ids, sampled, start)
        if turn.message is not None:
            leaf.messages.append(turn.message)
        if not turn.calls:
            leaf.stop_reason = self._stop_reason(leaf, generation)
        elif self.tokens_left(leaf) == 0:
            leaf.stop_reason = StopReason.LENGTH
        elif not self.turns_left(leaf):
            leaf.stop_reason = StopReason.TOOL_LIMIT
        elif not self._is_out_of_time(leaf):
            await self._execute_calls(leaf, turn.calls)
        if leaf.stop_reason is None and self._is_out_of_time(leaf):
            leaf.stop_reason = StopReason.TIME_LIMIT

    def _is_out_of_time(self, leaf: Leaf) -> bool:
        return self._calls.seconds_left(leaf) <= 0

    def _append(
        self,
        leaf: Leaf,
        token_ids: list[int],
        sampled: Generation | None = None,
        start: TurnStart | None = None,
        calls: tuple[ExecutedCall, ...] = (),
    ) -> None:
        """Append a segment; one that was not sampled is a tool result."""
        segment = Segment(
            # Unique without a common counter, which would make the ids depend on the order of arrival.
            id=leaf.number + self._settings.leaves * leaf.own_segments,
            token_ids=token_ids,
            is_sampled=sampled is not None,
            logprobs=sampled.logprobs if sampled is not None else [0.0] * len(token_ids),
            weight_versions=sampled.weight_versions if sampled is not None else None,
            calls=calls,
            times=(start.asked, time.time()) if start is not None else None,
            waited_seconds=leaf.waited_seconds - start.waited_seconds if start is not None else 0.0,
        )
        leaf.own_segments += 1
        leaf.segments.append(segment)

    def _stop_reason(self, leaf: Leaf, generation: Generation) -> StopReason:
        if generation.is_interrupted:
            return StopReason.INTERRUPTED
        if not generation.token_ids:
            return StopReason.EMPTY
        if self._services.syntax.ends_answer(generation.token_ids[-1]):
            return StopReason.COMPLETED
        is_at_limit = generation.is_at_limit or self.tokens_left(leaf) == 0
        return StopReason.LENGTH if is_at_limit else StopReason.INTERRUPTED

    async def _execute_calls(self, leaf: Leaf, asked: list[ToolCall]) -> None:
        """Execute the calls of a turn and append their results, cut to what the budget leaves."""
        calls = asked[: min(self._settings.max_parallel_calls, self._config.max_tool_calls - leaf.tool_calls)]
        leaf.tool_calls += len(calls)
        leaf.tool_turns += 1
        leaf.is_at_fork_point = True
        leaf.is_forkable = leaf.is_forkable and all(self._services.tools.can_fork(call.name) for call in calls)
        answers, records = await self._calls.execute(leaf, calls)
        if "infrastructure" in self._config.exclude and any(is_infrastructure(call.status) for call in records):
            leaf.is_forkable = False  # a fork would have the failed call in its prefix, and train nothing either
        context = self._settings.prompt_ids + leaf.token_ids
        rendered = await self._services.syntax.render_results(context, leaf.messages, answers)
        leaf.messages.extend(rendered.messages)
        leaf.drop_last(rendered.removed)
        left = self.tokens_left(leaf)
        leaf.is_result_cut = leaf.is_result_cut or len(rendered.token_ids) > left
        self._append(leaf, rendered.token_ids[:left], calls=tuple(records))
        if len(rendered.token_ids) >= left:
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
