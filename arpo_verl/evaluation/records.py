"""The file of an evaluation: JSON lines, the first with the settings, then one a sample. It is all that scoring reads.

A sample is finished when its line ends in a line feed; what a killed process has left of a line is not a sample.
"""

from dataclasses import dataclass
from typing import Any

RUN, SAMPLE = "run", "sample"
"""Values of the key `type`."""


@dataclass(frozen=True)
class CallRecord:
    """One tool call of a sample."""

    tool: str
    status: str
    """A value of `arpo_tools.ToolStatus`."""
    seconds: float


@dataclass(frozen=True)
class SampleRecord:
    """One sample of one prompt, in plain values."""

    id: str
    """Of the prompt, unique in the file."""
    sample: int
    """Counted from 0 for each prompt."""
    data_source: str
    ability: str
    question: str
    """The last user message."""
    truths: list[str]
    """The accepted answers."""
    output: str
    """The response as text, tool results included."""
    calls: list[CallRecord]
    generated_tokens: int
    """Sampled by the model."""
    response_tokens: int
    """Tool results included."""
    stop_reason: str
    """A value of `arpo_verl.rollout.tree.StopReason`, or `error`."""
    error: str | None
    """Why there is no response: the server failed for good. The sample counts as wrong."""
    seconds: float
    extra: dict[str, Any]
    """Of the dataset row, what reports are split by, such as `level`."""
