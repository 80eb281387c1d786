"""What a tool is and what it returns."""

from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class ToolStatus(str, Enum):
    """How a call ended. The set is closed: metrics count each value."""

    OK = "ok"
    """The tool did what it was asked for and has something to show."""
    EMPTY = "empty"
    """The tool did what it was asked for and there is nothing to show: no hits, no output."""
    MODEL_ERROR = "model_error"
    """The request was wrong: bad code, an empty query, a malformed call. The text tells the model why."""
    TIMEOUT = "timeout"
    """What was asked for takes longer than the call may; what it had printed by then is in the text."""
    LIMIT = "limit"
    """The call ran into another limit: memory, CPU time, output, file size."""
    INFRASTRUCTURE_ERROR = "infrastructure_error"
    """The tool itself failed, or the service behind it did not answer in time; the model is not to blame."""
    REFUSED = "refused"
    """A service refuses the key or the account. No later call will do better: the text says what a human must fix."""
    BUDGET = "budget"
    """The run has spent its paid calls. No later paid call will be made; cached answers are still given."""


@dataclass(frozen=True)
class ToolResult:
    """The answer to one call: the text that the model reads, and how the call ended."""

    text: str
    status: ToolStatus = ToolStatus.OK


class Tool(Protocol):
    """Anything with a name that turns the model's text into a `ToolResult`, concurrently and without raising."""

    name: str

    async def run(self, text: str) -> ToolResult:
        """Answer one call. Cancelling the coroutine must leave no process and no open file behind."""
        ...
