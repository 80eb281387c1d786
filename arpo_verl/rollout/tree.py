"""The rollout tree of one prompt, stored as leaves that share their segments.

A segment is a run of tokens that was generated or inserted in one piece. It is stored once; a fork copies the list of
references, not the tokens. Forks happen only between segments, so no segment is ever split and equal segment ids mean
shared tokens.
"""

import copy
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any

from arpo_verl.config.training import LeafFault


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
"""The statuses of infrastructure failures (`arpo_tools.ToolStatus`)."""


def is_infrastructure(status: str) -> bool:
    """Whether a call that ended with this status is an infrastructure failure.

    An *infrastructure failure* is a failed tool call for which the model is not to blame: the tool or its service is
    broken (`infrastructure_error`, which includes a call without an answer within `arpo.max_call_seconds`), refuses the
    key or the account (`refused`), or has no paid calls left (`budget`).
    """
    return status in (INFRASTRUCTURE_ERROR, REFUSED, BUDGET)


@dataclass(frozen=True)
class ExecutedCall:
    """One executed call: its cost and how it ended, for the metrics."""

    name: str
    status: str
    latency_seconds: float
    reward: float | None = None
    """verl's step reward of the call, where the tool gives one."""
    retries: int = 0
    arguments: str | dict[str, Any] = ""
    """What the model asked for: the text of a tag, or named arguments."""
    result: str = ""
    """The answer's text."""
    started: float | None = None
    """When it was asked for, in seconds since 1970."""
    waited_seconds: float = 0.0
    """Time before it was made, while others were in flight; `latency_seconds` come after it."""
    is_cached: bool | None = None
    """Whether the tool had the answer already; None of a tool that does not say."""
    cost: float | None = None
    """What the call has cost, in the unit of the service that says so."""


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
    calls: tuple[ExecutedCall, ...] = ()
    """The calls that this segment is the result of."""
    times: tuple[float, float] | None = None
    """When sampling was asked for and when it had ended, in seconds since 1970; None for tool results."""
    waited_seconds: float = 0.0
    """How much of that time went by before a request was sent, while others were in flight."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Segment":
        """Share the segment: it never changes."""
        return self


NO_LEAF_MISSING = "no_leaf_missing"
"""`Decision.limit` where the tree has no place for more leaves."""
TOOL_CANNOT_FORK, FAILED_CALL = "tool_cannot_fork", "failed_call"
"""Why nothing forks below a call: its tool's state can't be copied, or it failed and what forks would be excluded."""


@dataclass(frozen=True)
class Decision:
    """The decision at one fork point, and what it was based on."""

    forks: int
    """The number of leaves to create."""
    limit: str
    """Why there were not more, in a word or two that metrics can count: the rule's, `NO_LEAF_MISSING`, or
    `TOOL_CANNOT_FORK` where a copy of the tools' state failed."""
    entropy_change: float | None = None
    """ΔH, where the rule looks at it."""
    branch_score: float | None = None
    """P_t, not clipped, where the rule has one."""
    entropy: float | None = None
    """Mean entropy of the watched tokens, in nats, where there were any; in a round, mean surprisal of the whole turn
    that may be sampled again."""
    fork_token: int | None = None
    """Length of the response at the fork point, its tool result included; 0 at the prompt. From the scheduler."""
    round: int | None = None
    """Which round this was decided in, from 1; None for a decision while the leaf grew."""
    score: float | None = None
    """What turns were ranked or drawn by, less its penalties, in a round."""
    fork_probability: float | None = None
    """The probability that there is a fork at all, while a leaf is missing; None of a rule that does not draw."""
    features: Mapping[str, float] | None = None
    """What a rule that learns has decided by."""
    draws: Sequence[float] = ()
    """The numbers in [0, 1) that were drawn for it, in order; none in a round. From the scheduler."""


@dataclass(frozen=True)
class Refusal:
    """A fork point at which the rule was not asked."""

    fork_token: int
    """Length of the response there, the tool result included."""
    reason: str
    """`NO_LEAF_MISSING`, `TOOL_CANNOT_FORK` or `FAILED_CALL`."""


@dataclass(frozen=True)
class WatchedTurn:
    """The entropies at the first tokens of a turn."""

    token: int
    """Length of the response before the turn."""
    entropies: list[float]
    """In nats."""


@dataclass(frozen=True)
class TurnSnapshot:
    """A leaf at the start of one of its own turns: what a fork begins with that samples this turn again."""

    turn: int
    """The number of turns before it on the leaf's path."""
    segments: int
    """The number of the leaf's segments before it."""
    tokens: int
    """Length of the response before it."""
    tool_calls: int
    """Calls before it, which names the fork point on the leaf's path."""
    seconds: float
    """How long the leaf had been running, its prefix included."""
    state: dict[str, Any] | None
    """Copies of every state that a fork inherits; None where a tool's state can't be copied."""


OWN = {"is_own": True}
"""Metadata of a leaf's field that a fork begins anew; every other field is copied at a fork."""


@dataclass
class Leaf:
    """One trajectory, alive until `stop_reason` is set."""

    number: int = field(metadata=OWN)
    """0 to n - 1, in order of creation."""
    path: str = field(metadata=OWN)
    """The place in the tree where the leaf began, whatever the order of events: root number, then (calls before the
    fork point, fork) pairs."""
    request_id: str
    """Shared by a root and all its descendants, so that they are served where their prefix is cached."""
    parent: int | None = field(default=None, metadata=OWN)
    """Number of the leaf that this one forked from; None for a root."""
    fork_token: int | None = field(default=None, metadata=OWN)
    """Length of the response at the fork point; None for a root."""
    is_top_up: bool = field(default=False, metadata=OWN)
    """Started from the prompt to replace leaves that forks could no longer bring."""
    segments: list[Segment] = field(default_factory=list)
    own_segments: int = field(default=0, metadata=OWN)
    """The number of segments that this leaf has added to its prefix's."""
    messages: list[dict[str, Any]] = field(default_factory=list)
    """The conversation since the prompt, for a syntax that needs it."""
    tool_state: dict[str, Any] = field(default_factory=dict)
    """The state that tools keep for this leaf."""
    rule_state: Any = None
    """The state that the branching rule keeps for this leaf (`BranchingRule.root_state`)."""
    turn_entropies: list[list[float]] = field(default_factory=list)
    """Entropies of the first k tokens of each watched turn, in nats, those of the prefix included. The first are
    H_initial."""
    inherited_turn_entropies: int = field(default=0, metadata=OWN)
    """The number of `turn_entropies` that are the prefix's."""
    decisions: list[Decision] = field(default_factory=list, metadata=OWN)
    """This leaf's own fork points, not those of its prefix."""
    refusals: list[Refusal] = field(default_factory=list, metadata=OWN)
    """This leaf's own fork points at which the rule was not asked."""
    watched_turns: list[WatchedTurn] = field(default_factory=list, metadata=OWN)
    """This leaf's own part of `turn_entropies`, with the places."""
    waited_seconds: float = field(default=0.0, metadata=OWN)
    """Time that this leaf's own requests have waited for others in flight."""
    is_at_fork_point: bool = field(default=False, metadata=OWN)
    """A tool has been called and branching after its result has not been decided."""
    is_forkable: bool = True
    """False once a tool was called whose state can't be copied, or once a copy has failed."""
    tool_calls: int = 0
    """Calls made, those of the prefix included."""
    tool_turns: int = 0
    """Turns that called tools, those of the prefix included."""
    requests: int = field(default=0, metadata=OWN)
    """Generation requests of this leaf alone."""
    requested_tokens: int = field(default=0, metadata=OWN)
    """Context tokens of those requests."""
    cached_tokens: int = field(default=0, metadata=OWN)
    """The number of `requested_tokens` that were in the engine's prefix cache."""
    is_result_cut: bool = field(default=False, metadata=OWN)
    """A tool result did not fit into the token budget."""
    started: float = field(default_factory=lambda: time.monotonic())
    """When this leaf's root began, in seconds of the monotonic clock."""
    stop_reason: StopReason | None = field(default=None, metadata=OWN)
    engine_versions: tuple[int, int] | None = field(default=None, metadata=OWN)
    """Versions of the weights at the last request, which counts for a leaf that got no token."""
    reward: float | None = field(default=None, metadata=OWN)
    """Of a finished leaf: before its rule is asked again where that needs it, else once `on_leaf` has it. None before,
    and where it failed."""
    snapshots: list[TurnSnapshot] = field(default_factory=list, metadata=OWN)
    """The starts of this leaf's own turns, where the branching rule may sample turns again."""

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
    def calls(self) -> list[ExecutedCall]:
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
    def faults(self) -> set[LeafFault]:
        """The reasons for which `arpo.exclude` may exclude this finished leaf."""
        faults: set[LeafFault] = set()
        if self.stop_reason in (StopReason.LENGTH, StopReason.TIME_LIMIT):
            faults.add("truncated")
        if self.stop_reason in (StopReason.EMPTY, StopReason.INTERRUPTED):
            faults.add("void")
        if any(is_infrastructure(call.status) for call in self.calls):
            faults.add("infrastructure")
        return faults

    def _inherited_state(self) -> dict[str, Any]:
        """Return copies of what a fork inherits, but for the tools' state."""
        inherited = [one.name for one in fields(self) if not one.metadata.get("is_own") and one.name != "tool_state"]
        return {name: copy.deepcopy(getattr(self, name)) for name in inherited}

    def keep_snapshot(self, tool_state: dict[str, Any] | None = None, can_fork: bool = True) -> None:
        """Remember the state at the start of a turn.

        Args:
            tool_state: a copy of the tools' state; None makes a deep one.
            can_fork: false where that state can't be copied: nothing forks here.
        """
        state = None
        if can_fork:
            copied = copy.deepcopy(self.tool_state) if tool_state is None else tool_state
            state = {**self._inherited_state(), "tool_state": copied}
        seconds = time.monotonic() - self.started
        snapshot = TurnSnapshot(self.tool_turns, len(self.segments), self.length, self.tool_calls, seconds, state)
        self.snapshots.append(snapshot)

    def fork(
        self, number: int, path: str, at: TurnSnapshot | None = None, tool_state: dict[str, Any] | None = None
    ) -> "Leaf":
        """Return a leaf that shares a prefix and has a copy of every state.

        Args:
            number: the new leaf's.
            path: the new leaf's.
            at: the start of the turn to sample again, one of `snapshots`; None goes on from the present end. The time
                between then and now is not counted against the new leaf, which nobody has grown meanwhile.
            tool_state: a copy of the tools' state there; None makes a deep one.
        """
        if at is None:
            inherited, tokens = self._inherited_state() | {"tool_state": self.tool_state}, self.length
        else:
            assert at.state is not None, f"leaf {self.path} can't fork at turn {at.turn}"
            kept = {name: value for name, value in at.state.items() if name != "tool_state"}
            inherited, tokens = copy.deepcopy(kept) | {"tool_state": at.state["tool_state"]}, at.tokens
            inherited["started"] = time.monotonic() - at.seconds
        inherited["tool_state"] = copy.deepcopy(inherited["tool_state"]) if tool_state is None else tool_state
        return Leaf(
            number=number,
            path=path,
            parent=self.number,
            fork_token=tokens,
            inherited_turn_entropies=len(inherited["turn_entropies"]),
            **inherited,
        )

    def drop_last(self, tokens: int) -> None:
        """Remove the last tokens of the last segment, which no other leaf has yet."""
        if not tokens:
            return
        last = self.segments.pop()
        kept = len(last.token_ids) - tokens
        if kept > 0:
            self.segments.append(replace(last, token_ids=last.token_ids[:kept], logprobs=last.logprobs[:kept]))


@dataclass
class Tree:
    """The leaves of one prompt that have been created so far."""

    size: int
    """n, the number of leaves of the finished tree."""
    created: int = 0
    planned_roots: int = 0
    """The number of leaves that the branching rule has started from the prompt."""
    top_ups: int = 0
    """The number of leaves that were started from the prompt in place of forks."""
    resampled_roots: int = 0
    """The number of leaves that were started from the prompt because a round samples a first turn again."""
    forks_at: Counter[str] = field(default_factory=Counter)
    """The number of forks at each fork point, by the path of the leaf and its calls there."""
    rounds: int = 0
    """The number of rounds of forks that have begun."""
    living: dict[int, Leaf] = field(default_factory=dict)
    """The leaves that still grow, by number, in order of creation."""
    ended: list[Leaf] = field(default_factory=list)
    """The finished leaves, in the order in which they ended."""
    turns: int = 0
    """The number of turns that have ended."""
    calling_turns: int = 0
    """The number of those turns that ended with a tool result."""
    rule_state: Any = None
    """The state that the branching rule keeps for this tree (`BranchingRule.tree_state`)."""

    @property
    def missing(self) -> int:
        """The number of leaves that are still to be created."""
        return self.size - self.created

    @property
    def roots(self) -> int:
        """The number of leaves that were started from the prompt."""
        return self.planned_roots + self.top_ups + self.resampled_roots
