"""The progress of a run: its counts, and the line that shows them on a terminal; elsewhere nothing is shown."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS = 0.5
"""Time between two updates of the line."""


@dataclass
class RunProgress:
    """The counts of a run, in this process."""

    expected: int
    """The number of samples of the whole run."""
    finished: int
    """The number of samples in the file, those of earlier processes included."""
    in_flight: int = 0
    failed: int = 0
    """The number of samples that failed and were not written."""
    refused: int = 0
    """The number of samples that the server refused, written without a response."""
    calls: int = 0
    generated_tokens: int = 0
    last_problem: str | None = None
    """The server's last message about a failure or a refusal."""

    @property
    def missing(self) -> int:
        return self.expected - self.finished


@contextlib.asynccontextmanager
async def show_progress(counts: RunProgress, console: Console) -> AsyncIterator[None]:
    """Show the counts while the context is entered."""
    if not console.is_terminal:
        yield
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as line:
        row = line.add_task("", total=counts.expected, completed=counts.finished)

        async def follow() -> None:
            while True:
                line.update(row, completed=counts.finished, description=description(counts))
                await asyncio.sleep(_SECONDS)

        following = asyncio.create_task(follow())
        try:
            yield
        finally:
            following.cancel()


def description(counts: RunProgress) -> str:
    """Return the counts as text, without those that are 0."""
    parts = {
        "in flight": counts.in_flight,
        "tool calls": counts.calls,
        "tokens": counts.generated_tokens,
        "refused": counts.refused,
        "failed": counts.failed,
    }
    return ", ".join(f"{number} {name}" for name, number in parts.items() if number)
