"""What the scheduler asks of the outside world: an engine, tools and a call syntax."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Generation:
    """What the engine sampled for one request."""

    token_ids: list[int]
    logprobs: list[float]
    """Log-probability of each sampled token, parallel to `token_ids`."""
    weight_versions: tuple[int, int] | None = None
    is_interrupted: bool = False
    """The engine gave up on the request; neither the model nor a limit ended it."""


@dataclass(frozen=True)
class ToolCall:
    """What the model asked for. An `error` replaces the call: the syntax could not make sense of it."""

    name: str
    text: str
    error: str | None = None


@dataclass(frozen=True)
class ToolAnswer:
    """What a tool said, ready to be shown to the model."""

    text: str
    status: str


class Engine(Protocol):
    """Samples tokens. Stops at the end of an answer, at the end of a tool call, and after `max_tokens`."""

    async def generate(self, token_ids: list[int], max_tokens: int, request_id: str) -> Generation: ...


class Tools(Protocol):
    """Executes calls; never raises for what a tool or the model did."""

    async def execute(self, call: ToolCall) -> ToolAnswer: ...


class CallSyntax(Protocol):
    """How calls look in the model's tokens and results in the tool's."""

    def ends_answer(self, token_id: int) -> bool:
        """Whether this token ends the model's answer."""
        ...

    def find_call(self, token_ids: list[int]) -> tuple[ToolCall, int] | None:
        """Return the first complete call of a turn, and how many of the turn's tokens it takes to complete it."""
        ...

    def encode_result(self, text: str) -> list[int]:
        """Return the tokens to insert for a result; no special token is added."""
        ...
