"""The interface of a tool, its result and its error."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol


class ToolStatus(str, Enum):
    """The outcome of a call. The set is closed: metrics count each value."""

    OK = "ok"
    """The tool did what it was asked for and has something to show."""
    EMPTY = "empty"
    """The tool did what it was asked for and there is nothing to show: no hits, no output."""
    MODEL_ERROR = "model_error"
    """The request was wrong: bad code, an empty query, a malformed call. The text tells the model why."""
    TIMEOUT = "timeout"
    """The request takes longer than a call may; what it had printed by then is in the text."""
    LIMIT = "limit"
    """The call ran into another limit: memory, CPU time, output, file size."""
    INFRASTRUCTURE_ERROR = "infrastructure_error"
    """An *infrastructure failure*: the tool itself failed, or the service behind it did not answer in time. The
    model is not to blame, and nothing is to be learned from the missing result."""
    REFUSED = "refused"
    """A service refuses the key or the account. No later call will do better: the text says what a human must fix."""
    BUDGET = "budget"
    """The run has spent its paid calls. No later paid call will be made; cached answers are still given."""


@dataclass(frozen=True)
class ToolResult:
    """The answer to one call: the text that the model reads, and how the call ended."""

    text: str
    status: ToolStatus = ToolStatus.OK
    is_cached: bool | None = field(default=None, compare=False)
    """Whether the tool had the answer already, for the run's record; None of a tool that does not say."""
    cost: float | None = field(default=None, compare=False)
    """What the call has cost, in the unit of the service that says so; for the run's record."""


class ArgumentError(ValueError):
    """A call's arguments can't be used, which is the model's error; the message tells it why.

    The only exception of a tool that counts as `model_error`. Whatever else a tool raises is its own failure.
    """


class Tool(Protocol):
    """Anything with a name that turns the model's text into a `ToolResult`, concurrently and without raising."""

    @property
    def name(self) -> str:
        """What the model calls it by; any attribute will do."""
        ...

    async def run(self, text: str, /) -> ToolResult:
        """Answer one call. Cancelling the coroutine must leave no process and no open file behind."""
        ...
