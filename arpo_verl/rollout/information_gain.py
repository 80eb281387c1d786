"""Information gain of turns (IGPO, arXiv 2510.14967; A²TGPO, arXiv 2605.06200).

    g_k = p̄_k - p̄_(k-1),   p̄ = exp(mean log-probability of the gold answer's tokens)

p̄_k is taken after the result of turn k, p̄_0 after the prompt. It is a difference of probabilities (geometric means over
the answer's tokens), not of log-probabilities, as in the released code of IGPO (commit bff163b). The last turn, which
has no result, has no gain: the papers put the outcome there, which is the business of another term of the advantage.

Each distinct state is scored once in a tree: leaves share the prompt, and every tool result of a shared prefix. States
of the same tokens are one state, in whatever leaves they are.
"""

import asyncio
import logging
import math
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from arpo_verl.rollout.leaf_turns import turn_segments
from arpo_verl.rollout.seeds import token_digest
from arpo_verl.rollout.tasks import end_tasks
from arpo_verl.rollout.tree import Leaf, Segment

logger = logging.getLogger(__name__)

CANCELLATION_SECONDS = 1.0

ScoreAnswer = Callable[[list[int], str], Awaitable[Sequence[float]]]
"""From the tokens of a state and the leaf's request id to the log-probabilities of the answer's tokens after it."""


@dataclass(frozen=True)
class StateScore:
    """What scoring one state has brought."""

    probability: float | None
    """p̄; None where it is not known."""
    seconds: float


@dataclass
class LeafGains:
    """The gains of a leaf, and the requests that it was the first to need."""

    gains: list[float | None] = field(default_factory=list)
    requests: int = 0
    failures: int = 0
    seconds: float = 0.0


class InformationGain:
    """Scores the states of one prompt's tree. Single use; to be closed at the end."""

    def __init__(self, prompt_ids: list[int], score: ScoreAnswer | None, max_seconds: float) -> None:
        """
        Args:
            prompt_ids: the tokens of the prompt.
            score: asks the inference server; None where the prompt has no gold answer, so that no gain is known.
            max_seconds: the limit on one request; one that takes longer counts as failed.
        """
        self._prompt_ids = prompt_ids
        self._score = score
        self._max_seconds = max_seconds
        self._tasks: dict[str, asyncio.Task[StateScore]] = {}
        """By the digest of a state's tokens."""

    async def of_leaf(self, leaf: Leaf) -> LeafGains:
        """Return the gain of each turn of a finished leaf; never raises for what a request has done."""
        turns = turn_segments(leaf)
        states = {id(result): context for result, context in self._states(leaf)}
        if not states or self._score is None:
            return LeafGains([None] * len(turns))
        found = LeafGains()
        prompt, *after = await asyncio.gather(
            *(self._known(tokens, leaf.request_id, found) for tokens in (self._prompt_ids, *states.values()))
        )
        probabilities = dict(zip(states, after, strict=True))
        before = prompt
        for _, result in turns:
            if id(result) not in probabilities:
                found.gains.append(None)
                continue
            now = probabilities[id(result)]
            found.gains.append(now - before if now is not None and before is not None else None)
            before = now
        return found

    def _states(self, leaf: Leaf) -> Iterator[tuple[Segment, list[int]]]:
        """Yield each tool result that has tokens and belongs to a turn, with all tokens up to its end."""
        results = {id(result) for _, result in turn_segments(leaf) if result is not None and result.token_ids}
        context = list(self._prompt_ids)
        for segment in leaf.segments:
            context = context + segment.token_ids
            if id(segment) in results:
                yield segment, context

    async def _known(self, tokens: list[int], request_id: str, found: LeafGains) -> float | None:
        """Return the probability after a state, from the one request for it, which is counted where it is made."""
        key = token_digest(tokens)
        is_new = key not in self._tasks
        if is_new:
            self._tasks[key] = asyncio.create_task(self._scored(tokens, request_id))
        # Another leaf may wait for the same task, which must not end with this leaf's own.
        score = await asyncio.shield(self._tasks[key])
        if is_new:
            found.requests += 1
            found.failures += score.probability is None
            found.seconds += score.seconds
        return score.probability

    async def _scored(self, tokens: list[int], request_id: str) -> StateScore:
        start = time.monotonic()
        probability = None
        assert self._score is not None
        try:
            log_probs = await asyncio.wait_for(self._score(tokens, request_id), self._max_seconds)
            mean = statistics.fmean(log_probs)
            probability = math.exp(mean) if math.isfinite(mean) else None
        except asyncio.TimeoutError:
            logger.warning("no probability of the gold answer within %g s; the gain is left out", self._max_seconds)
        except Exception as error:
            # Whatever the server raises: a gain that is missing costs less than the leaf.
            logger.warning("the gold answer could not be scored, %s: %s", type(error).__name__, error)
        return StateScore(probability, time.monotonic() - start)

    async def close(self) -> None:
        """End the requests that are still under way, as those of a prompt that has failed."""
        await end_tasks(set(self._tasks.values()), CANCELLATION_SECONDS)
