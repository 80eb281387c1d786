"""The rollout tree of one prompt, stored as leaves that share their segments.

A segment is a run of tokens that was generated or inserted in one piece. It is stored once; a fork copies the list of
references, not the tokens. Forks happen only between segments, so no segment is ever split and equal segment ids mean
shared tokens.
"""

from dataclasses import dataclass, field
from enum import Enum


class StopReason(str, Enum):
    """Why a leaf ended. The set is closed: metrics count each value."""

    COMPLETED = "completed"
    """The model ended its answer."""
    LENGTH = "length"
    """The leaf's token budget is spent, or a tool result filled it."""
    TOOL_LIMIT = "tool_limit"
    """The model asked for one call more than `arpo.max_tool_calls` allows."""
    EMPTY = "empty"
    """The engine returned no token."""
    INTERRUPTED = "interrupted"
    """The engine stopped for a reason of its own."""


@dataclass(frozen=True)
class ToolRecord:
    """What one executed call cost and how it ended, for the metrics."""

    name: str
    status: str
    latency_seconds: float


@dataclass(frozen=True)
class Segment:
    """Tokens that were generated or inserted in one piece."""

    id: int
    """Unique in the tree."""
    token_ids: list[int]
    is_sampled: bool
    """True for the policy's tokens (mask 1), False for a tool result (mask 0)."""
    logprobs: list[float]
    """Log-probability of each token, parallel to `token_ids`; zeros for a tool result."""
    weight_versions: tuple[int, int] | None = None
    """First and last version of the weights that sampled the tokens; None for a tool result or where unknown."""
    tool: ToolRecord | None = None
    """The call that this segment is the result of."""


@dataclass(frozen=True)
class Decision:
    """What was seen and done at one fork point."""

    entropy: float
    """Mean entropy of the first k tokens after the tool result, in nats."""
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
    segments: list[Segment] = field(default_factory=list)
    initial_entropies: list[float] = field(default_factory=list)
    """H_initial: entropies of the first k tokens of this leaf's root, in nats."""
    decisions: list[Decision] = field(default_factory=list)
    """This leaf's own fork points, not those of its prefix."""
    tool_calls: int = 0
    """Calls made, those of the prefix included."""
    is_result_cut: bool = False
    """A tool result did not fit into the token budget."""
    is_top_up: bool = False
    """Started from the prompt to replace leaves that forks could no longer bring."""
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
    def weight_versions(self) -> tuple[int, int] | None:
        """First and last version of the weights over all sampled segments; a fork has its prefix's."""
        versions = [segment.weight_versions for segment in self.segments if segment.weight_versions is not None]
        if not versions:
            return self.engine_versions
        return min(first for first, _ in versions), max(last for _, last in versions)

    def fork(self, number: int, path: str, fork_point: int) -> "Leaf":
        """Return a leaf that shares the first `fork_point` segments and has its root's initial entropies."""
        shared = self.segments[:fork_point]
        return Leaf(
            number=number,
            path=path,
            request_id=self.request_id,
            parent=self.number,
            fork_token=sum(len(segment.token_ids) for segment in shared),
            segments=shared,
            initial_entropies=self.initial_entropies,
            tool_calls=self.tool_calls,
        )
