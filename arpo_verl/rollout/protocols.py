"""The interfaces that the scheduler needs: an inference engine, tools and a call syntax."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class EntropyMeasure:
    """How the entropy of a position is computed from its log-probabilities."""

    top_k: int
    """K, the number of most likely tokens that it is computed from."""
    is_truncated: bool = False
    """Whether it is the sum over those tokens alone, instead of `arpo_verl.entropy.topk_entropy`."""


@dataclass(frozen=True)
class GenerationRequest:
    """One request of the scheduler to the inference engine."""

    token_ids: list[int]
    """Prompt and response so far."""
    max_tokens: int
    request_id: str
    """The same for all requests of a root and its descendants, which share a prefix."""
    entropy_tokens: int = 0
    """The number of first tokens at which the entropy is measured."""
    entropy_measure: EntropyMeasure | None = None
    """How the entropy is computed; None where nothing is measured."""
    seed: int | None = None
    """Seed of the sampling; None leaves it to the engine."""


@dataclass(frozen=True)
class Generation:
    """The engine's result of one request."""

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
    """The number of the request's tokens that were in the engine's prefix cache; None where unknown."""


@dataclass(frozen=True)
class ToolCall:
    """One tool call of the model. With an `error` it is not executed: the syntax could not parse it."""

    name: str
    arguments: str | dict[str, Any]
    """The text of a tag, or the named arguments of a native call."""
    error: str | None = None


@dataclass(frozen=True)
class Turn:
    """The model's text between two results, parsed by the syntax."""

    calls: list[ToolCall]
    """The complete calls; empty where the turn ends the answer."""
    used: int
    """The number of the turn's tokens that are kept; what follows a call is dropped."""
    message: dict[str, Any] | None = None
    """The turn as a chat message, for a syntax that needs the conversation."""


@dataclass(frozen=True)
class ToolAnswer:
    """The result of a tool, as text for the model."""

    text: str
    status: str
    reward: float | None = None
    """verl's step reward of the call, where the tool gives one."""
    is_cached: bool | None = None
    """Whether the tool had the answer already; None of a tool that does not say."""
    cost: float | None = None
    """What the call has cost, in the unit of the service that says so."""


@dataclass(frozen=True)
class RenderedResults:
    """The tokens to insert for the results of a turn."""

    token_ids: list[int]
    messages: list[dict[str, Any]] = field(default_factory=list)
    """The results as chat messages."""
    removed: int = 0
    """The number of the turn's last tokens that a chat template replaces."""


class InferenceEngine(Protocol):
    """Samples tokens. Stops at the end of an answer, at the end of a tool call, and after `max_tokens`."""

    async def generate(self, request: GenerationRequest) -> Generation: ...


class Tools(Protocol):
    """Executes calls; never raises for what a tool or the model did."""

    async def execute(self, call: ToolCall, state: dict[str, Any], messages: Sequence[dict[str, Any]]) -> ToolAnswer:
        """Execute a call.

        Args:
            call: the model's call.
            state: the leaf's state, in which a tool may keep values; a fork gets a copy of it (`LeafStates`).
            messages: the conversation since the prompt, where the syntax gives messages.
        """
        ...

    def can_fork(self, name: str) -> bool:
        """Whether a leaf that has called this tool may still fork: false where its state can't be copied."""
        ...


class LeafStates(Protocol):
    """Copies and ends the states that `Tools` keep for leaves."""

    async def fork(self, state: dict[str, Any]) -> dict[str, Any] | None:
        """Return a copy for another leaf, which shares nothing that either may change; None where there can be none.

        Never raises, logs why there is none, and takes a limited time.
        """
        ...

    def release(self, state: dict[str, Any]) -> None:
        """End a state that no leaf uses any more. Does not wait, and may be called again."""
        ...


class CallSyntax(Protocol):
    """The format of calls in the model's tokens, and of results in the inserted ones."""

    def ends_answer(self, token_id: int) -> bool:
        """Whether this token ends the model's answer."""
        ...

    async def is_over(self, token_ids: list[int]) -> bool:
        """Whether a turn that the engine cut is complete: it ends an answer or makes a call."""
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
