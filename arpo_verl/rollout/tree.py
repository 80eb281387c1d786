"""The rollout tree of one prompt, stored as leaves that share their segments.

A segment is a run of tokens that was generated or inserted in one piece. It is stored once; a fork copies the list of
references, not the tokens. Forks happen only between segments, so no segment is ever split and equal segment ids mean
shared tokens.
"""

import copy
import time
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from arpo_verl.config.arpo_config import Fault


class StopReason(str, Enum):
    """Why a leaf ended. The set is closed: metrics count each value."""

    COMPLETED = "completed"
    """The model ended its answer."""
    LENGTH = "length"
    """The leaf's token budget is spent, or a tool result filled it."""
    TOOL_LIMIT = "tool_limit"
    """The model asked for one call more than `arpo.max_tool_calls`, or verl's limits on turns, allow."""
    EMPTY = "empty"
    """The engine returned no token."""
    TIME_LIMIT = "time_limit"
    """`arpo.max_leaf_seconds` are over."""
    INTERRUPTED = "interrupted"
    """The engine stopped for a reason of its own."""


INFRASTRUCTURE_ERROR, REFUSED, BUDGET = "infrastructure_error", "refused", "budget"
"""The statuses of calls that failed by no fault of the model (`arpo_tools.ToolStatus`)."""


def is_infrastructure(status: str) -> bool:
    """Whether a call that ended so failed by no fault of the model."""
    return status in (INFRASTRUCTURE_ERROR, REFUSED, BUDGET)


@dataclass(frozen=True)
class ToolRecord:
    """What one executed call cost and how it ended, for the metrics."""

    name: str
    status: str
    latency_seconds: float
    reward: float | None = None
    """verl's step reward of the call, where the tool gives one."""
    retries: int = 0


@dataclass(frozen=True)
class Segment:
    """Tokens that were generated or inserted in one piece."""

    id: int
    """Unique in the tree."""
    token_ids: list[int]
    is_sampled: bool
    """True for the policy's tokens (mask 1), False for tool results (mask 0)."""
    logprobs: list[float]
    """Log-probability of each token, parallel to `token_ids`; zeros for tool results."""
    weight_versions: tuple[int, int] | None = None
    """First and last version of the weights that sampled the tokens; None for tool results or where unknown."""
    calls: tuple[ToolRecord, ...] = ()
    """The calls that this segment is the result of."""


@dataclass(frozen=True)
class Decision:
    """What was seen and done at one fork point."""

    entropy: float
    """Mean entropy of the watched tokens, in nats."""
    entropy_change: float
    """ΔH."""
    branch_score: float
    """P_t, not clipped."""
    forks: int
    """Leaves created."""


@dataclass
class Leaf:
    """One trajectory, alive until `stop_reason` is set."""

    number: int
    """0 to n - 1, in order of creation."""
    path: str
    """Where in the tree the leaf began, whatever the order of events: root number, then (decision, fork) pairs."""
    request_id: str
    """Shared by a root and all its descendants, so that they are served where their prefix is cached."""
    parent: int | None = None
    """Number of the leaf that this one forked from; None for a root."""
    fork_token: int | None = None
    """Length of the response at the fork point; None for a root."""
    is_top_up: bool = False
    """Started from the prompt to replace leaves that forks could no longer bring."""
    segments: list[Segment] = field(default_factory=list)
    own_segments: int = 0
    """How many segments this leaf has added to its prefix's."""
    messages: list[dict[str, Any]] = field(default_factory=list)
    """The conversation since the prompt, for a syntax that needs it."""
    tool_state: dict[str, Any] = field(default_factory=dict)
    """What tools keep for this leaf."""
    initial_entropies: list[float] | None = None
    """H_initial: entropies of the first k tokens of this leaf's root, in nats; None before they are measured."""
    step_entropies: list[float] = field(default_factory=list)
    """Entropies of the first k tokens of the last measured turn, in nats."""
    decisions: list[Decision] = field(default_factory=list)
    """This leaf's own fork points, not those of its prefix."""
    is_at_fork_point: bool = False
    """A tool has been called and branching after its result has not been decided."""
    is_forkable: bool = True
    """False once a tool was called whose state can't be copied."""
    tool_calls: int = 0
    """Calls made, those of the prefix included."""
    tool_turns: int = 0
    """Turns that called tools, those of the prefix included."""
    requests: int = 0
    """Generation requests of this leaf alone."""
    requested_tokens: int = 0
    """Context tokens of those requests."""
    cached_tokens: int = 0
    """How many of `requested_tokens` the engine had in its prefix cache."""
    is_result_cut: bool = False
    """A tool result did not fit into the token budget."""
    started: float = field(default_factory=time.monotonic)
    """When this leaf's root began, in seconds of the monotonic clock."""
    stop_reason: StopReason | None = None
    engine_versions: tuple[int, int] | None = None
    """Versions of the weights at the last request, which counts for a leaf that got no token."""

    @property
    def length(self) -> int:
        """Tokens of the response so far."""
        return sum(len(segment.token_ids) for segment in self.segments)

    @property
    def token_ids(self) -> list[int]:
        return [token for segment in self.segments for token in segment.token_ids]

    @property
    def response_mask(self) -> list[int]:
        return [int(segment.is_sampled) for segment in self.segments for _ in segment.token_ids]

    @property
    def logprobs(self) -> list[float]:
        return [logprob for segment in self.segments for logprob in segment.logprobs]

    @property
    def segment_ids(self) -> list[int]:
        return [segment.id for segment in self.segments for _ in segment.token_ids]

    @property
    def calls(self) -> list[ToolRecord]:
        """All executed calls, those of the prefix included."""
        return [call for segment in self.segments for call in segment.calls]

    @property
    def weight_versions(self) -> tuple[int, int] | None:
        """First and last version of the weights over all sampled segments; a fork has its prefix's."""
        versions = [segment.weight_versions for segment in self.segments if segment.weight_versions is not None]
        if not versions:
            return self.engine_versions
        return min(first for first, _ in versions), max(last for _, last in versions)

    @property
    def faults(self) -> set[Fault]:
        """What makes a finished leaf a candidate for `arpo.exclude`."""
        faults: set[Fault] = set()
        if self.stop_reason in (StopReason.LENGTH, StopReason.TIME_LIMIT):
            faults.add("truncated")
        if self.stop_reason in (StopReason.EMPTY, StopReason.INTERRUPTED):
            faults.add("void")
        if any(is_infrastructure(call.status) for call in self.calls):
            faults.add("infrastructure")
        return faults

    def fork(self, number: int, path: str) -> "Leaf":
        """Return a leaf that shares all segments so far and has its root's initial entropies."""
        return Leaf(
            number=number,
            path=path,
            request_id=self.request_id,
            parent=self.number,
            fork_token=self.length,
            segments=list(self.segments),
            messages=list(self.messages),
            tool_state=copy.deepcopy(self.tool_state),
            initial_entropies=self.initial_entropies,
            tool_calls=self.tool_calls,
            tool_turns=self.tool_turns,
            started=self.started,
        )

    def drop_last(self, tokens: int) -> None:
        """Remove the last tokens of the last segment, which no other leaf has yet."""
        if not tokens:
            return
        last = self.segments.pop()
        kept = len(last.token_ids) - tokens
        if kept > 0:
            self.segments.append(replace(last, token_ids=last.token_ids[:kept], logprobs=last.logprobs[:kept]))
