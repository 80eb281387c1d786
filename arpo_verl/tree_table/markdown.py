"""The table as Markdown, in which whatever a rollout says stays text."""

import re
from collections.abc import Iterable

from arpo_verl.tree_table.rows import COLUMNS, TreeRow

_MARKUP = re.compile(r"""[^\w\s.,;'"?/%…–⟨⟩]|_""")
"""Whatever a dialect of Markdown, or HTML, might read as more than itself."""


def as_text(value: str) -> str:
    """Return a text as Markdown that shows it: a reference to a character is never markup."""
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", value)


def markdown_table(rows: Iterable[TreeRow]) -> str:
    """Return a table in GitHub's form, with a line a row."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *([_cell(value) for value in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(value: str | int | float | None) -> str:
    if value is None:
        return "–"
    return as_text(value if isinstance(value, str) else f"{value:.4g}" if isinstance(value, float) else str(value))
