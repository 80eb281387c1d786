"""The knobs of limits: calls, seconds, and requests at a time."""

from collections.abc import Mapping
from dataclasses import dataclass

from arpo_verl.config.knob import SECONDS, SECONDS_OR_NULL, at_least, at_least_or_null, knob, require


@dataclass(frozen=True)
class ToolKnobs:
    """The limits on tool calls: their number, their time and their retries."""

    max_tool_calls: int = knob(6, "calls of one leaf, those of its prefix included", at_least(0))
    max_calls_per_tool: Mapping[str, int] = knob(
        {},
        "calls of one leaf by tool, such as `{search: 10, python: 5}`, within `max_tool_calls`; one more is answered "
        "by an error that says so",
    )
    max_call_seconds: float = knob(
        120.0, "wall-clock limit of a call with its retries, beside the tool's own, as in the released code", SECONDS
    )
    stuck_call_seconds: float = knob(60.0, "a call older than this is named in the log", SECONDS)
    infrastructure_retries: int = knob(
        1,
        "retries of a call that ended as `infrastructure_error`, beside the tool's own retries",
        at_least(0),
    )

    def check_tools(self) -> None:
        """Raise a ValueError unless every tool's limit is a number of calls."""
        for name, most in self.max_calls_per_tool.items():
            is_count = isinstance(most, int) and not isinstance(most, bool) and most >= 0
            require(is_count, f"max_calls_per_tool.{name}", most, "a whole number of at least 0")


@dataclass(frozen=True)
class LimitKnobs:
    """The limits on the time of a step's parts, and on what runs at the same time."""

    max_leaf_seconds: float | None = knob(
        None,
        "wall-clock limit of a leaf, its prefix and generation included; looked at between turns, ends calls",
        SECONDS_OR_NULL,
    )
    max_reward_seconds: float = knob(
        300.0, "wall-clock limit of one leaf's reward; a leaf without a reward in time is lost", SECONDS
    )
    max_stall_seconds: float = knob(
        1800.0,
        "how long nothing may happen, before the run stops: no leaf comes and no part of a step, such as an update or "
        "a save, ends",
        SECONDS,
    )
    max_requests_in_flight: int | None = knob(
        None, "generation requests of one agent loop worker at a time", at_least_or_null(1)
    )
    max_tool_calls_in_flight: int | None = knob(
        None, "tool calls of one agent loop worker at a time", at_least_or_null(1)
    )
