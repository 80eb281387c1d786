"""The line that shows how far an evaluation is, on a terminal; elsewhere nothing is shown."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from arpo_verl.evaluation.runner import Progress as Counts

_SECONDS = 0.5
"""Between two looks at the counts."""


@contextlib.asynccontextmanager
async def shown(counts: Counts, console: Console) -> AsyncIterator[None]:
    """Show counts as they change."""
    if not console.is_terminal:
        yield
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as line:
        row = line.add_task("", total=counts.expected, completed=counts.finished)

        async def follow() -> None:
            while True:
                line.update(row, completed=counts.finished, description=described(counts))
                await asyncio.sleep(_SECONDS)

        following = asyncio.create_task(follow())
        try:
            yield
        finally:
            following.cancel()


def described(counts: Counts) -> str:
    """Return the counts in words, those of nothing left out."""
    parts = {
        "in flight": counts.in_flight,
        "tool calls": counts.calls,
        "tokens": counts.generated_tokens,
        "refused": counts.refused,
        "failed": counts.failed,
    }
    return ", ".join(f"{number} {name}" for name, number in parts.items() if number)
