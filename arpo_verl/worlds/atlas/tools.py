"""The tools that the expert calls: the package's own search over the world's corpus, and its Python interpreter.

They show what they show in training with the tool list `tools.yaml`.
"""

from pathlib import Path

from arpo_tools import LocalSearch, PythonInterpreter
from arpo_tools.tool import ToolResult, ToolStatus

PAGES = 3
"""Passages of a result, as `top_k` of `tools.yaml` has it."""
ENGINE = "bm25s"
"""The engine that training uses where it is installed; the other one may rank differently."""


class WorldTools:
    """Search and Python with their answers kept, so that what is asked twice is run once."""

    def __init__(self, corpus: Path) -> None:
        """Build the index beside the corpus.

        Raises:
            ValueError: the engine is not installed, or the corpus can't be read.
        """
        self._search = LocalSearch(corpus, top_k=PAGES, engine=ENGINE)
        # What is shown is the same; a busy machine may take longer than training's usual 5 s.
        self._python = PythonInterpreter(timeout_seconds=60.0)
        self._known: dict[tuple[str, str], str] = {}

    async def call(self, tool: str, text: str) -> str:
        """Return what a call of `search` or `python` shows.

        Raises:
            RuntimeError: the tool failed.
        """
        key = (tool, text)
        if key not in self._known:
            result: ToolResult = await (self._search if tool == "search" else self._python).run(text)
            if result.status not in (ToolStatus.OK, ToolStatus.EMPTY):
                raise RuntimeError(f"the call <{tool}>{text}</{tool}> failed: {result.status.value}: {result.text}")
            self._known[key] = result.text
        return self._known[key]

    async def pages(self, query: str) -> list[str]:
        """Return the lines of a search's result, one a passage."""
        return (await self.call("search", query)).split("\n")

    def close(self) -> None:
        """Stop the interpreter."""
        self._python.close()
