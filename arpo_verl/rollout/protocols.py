"""What the scheduler asks of the outside world: an engine, tools and a call syntax."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Request:
    """What the scheduler asks of the engine."""

    token_ids: list[int]
    """Prompt and response so far."""
    max_tokens: int
    request_id: str
    """The same for all requests of a root and its descendants, which share a prefix."""
    entropy_tokens: int = 0
    """At how many of the first tokens to measure the entropy."""
    seed: int | None = None
    """Seed of the sampling; None leaves it to the engine."""


@dataclass(frozen=True)
class Generation:
    """What the engine sampled for one request."""

    token_ids: list[int]
    logprobs: list[float]
    """Log-probability of each sampled token, parallel to `token_ids`."""
    entropies: list[float] | None = None
    """Entropy in nats at each of the first tokens, as many as were asked for or sampled; None from an engine that does
    not measure it."""
    weight_versions: tuple[int, int] | None = None
    is_interrupted: bool = False
    """The engine gave up on the request; neither the model nor a limit ended it."""
    is_at_limit: bool = False
    """A limit on tokens ended it; False also from an engine that does not say."""
    cached_tokens: int | None = None
    """How many of the request's tokens were in the engine's prefix cache; None where unknown."""


@dataclass(frozen=True)
class ToolCall:
    """What the model asked for. An `error` replaces the call: the syntax could not make sense of it."""

    name: str
    arguments: str | dict[str, Any]
    """The text of a tag, or the named arguments of a native call."""
    error: str | None = None


@dataclass(frozen=True)
class Turn:
    """What the model wrote between two results, read by the syntax."""

    calls: list[ToolCall]
    """The complete calls; empty where the turn ends the answer."""
    used: int
    """How many of the turn's tokens count; what follows a call is not kept."""
    message: dict[str, Any] | None = None
    """The turn as a chat message, for a syntax that needs the conversation."""


@dataclass(frozen=True)
class ToolAnswer:
    """What a tool said, ready to be shown to the model."""

    text: str
    status: str
    reward: float | None = None
    """verl's step reward of the call, where the tool gives one."""


@dataclass(frozen=True)
class RenderedResults:
    """The tokens to insert for the results of a turn."""

    token_ids: list[int]
    messages: list[dict[str, Any]] = field(default_factory=list)
    """The results as chat messages."""
    removed: int = 0
    """How many of the turn's last tokens a chat template replaces."""


class Engine(Protocol):
    """Samples tokens. Stops at the end of an answer, at the end of a tool call, and after `max_tokens`."""

    async def generate(self, request: Request) -> Generation: ...


class Tools(Protocol):
    """Executes calls; never raises for what a tool or the model did."""

    async def execute(self, call: ToolCall, state: dict[str, Any], messages: Sequence[dict[str, Any]]) -> ToolAnswer:
        """Execute a call.

        Args:
            call: what the model asked for.
            state: the leaf's, to keep things in; a fork gets a deep copy of it.
            messages: the conversation since the prompt, where the syntax gives messages.
        """
        ...

    def can_fork(self, name: str) -> bool:
        """Whether a leaf that has called this tool may still fork: false where its state can't be copied."""
        ...


class CallSyntax(Protocol):
    """How calls look in the model's tokens and results in the tool's."""

    def ends_answer(self, token_id: int) -> bool:
        """Whether this token ends what the model has to say."""
        ...

    async def is_over(self, token_ids: list[int]) -> bool:
        """Whether a turn that the engine has not seen to its end is over: an answer has ended or a call is made."""
        ...

    async def read_turn(self, token_ids: list[int]) -> Turn:
        """Find the calls of a turn."""
        ...

    async def render_results(
        self, context: list[int], messages: Sequence[dict[str, Any]], answers: Sequence[ToolAnswer]
    ) -> RenderedResults:
        """Return the tokens to insert for the answers to a turn's calls.

        Args:
            context: prompt and response, the turn included.
            messages: the conversation since the prompt, the turn included; empty where the syntax gives no messages.
            answers: one for each executed call, in order.
        """
        ...
