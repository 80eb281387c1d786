"""The system prompt: the tag syntax of `arpo_verl.rollout.tag_syntax`, and the format that `arpo_verl.reward` asks for.

A model trained with another system prompt has to be evaluated with that one: `system_prompt_of` takes it from a file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

TOOLS = {
    "python": "<python>code</python> runs a Python program. You get what it prints.",
    "search": "<search>query</search> asks a search engine. You get the passages it finds.",
    "browse": "<browse>address</browse> opens a web page. You get its text.",
}
"""The line of the prompt about each tool."""

_TOOL_USE = """\
You can use these tools:
{tools}
To use one, write the call and wait. The result follows between <result> and </result>; read it and go on. Never write \
a result yourself. Use tools as often as you need them, one call at a time, and check what you are not sure of.
"""

_PROMPT = """\
Solve the task that the user gives you, step by step.
{tool_use}You may think between <think> and </think>; close it before you {before}. No tag may stand inside another.
When you are done, give the final answer once, at the very end and in this form: \
<answer>The answer is \\boxed{{your answer}}</answer>
In \\boxed{{}} stands the answer alone, as short as possible: a number, an expression, a name or a few words."""


def tag_prompt(tools: Sequence[str]) -> str:
    """Return our system prompt for some of `TOOLS`.

    Raises:
        ValueError: a tool is unknown.
    """
    unknown = [tool for tool in tools if tool not in TOOLS]
    if unknown:
        raise ValueError(
            f"tools {', '.join(unknown)}: expected some of {', '.join(TOOLS)}; write a system prompt of your own for "
            f"other tools and give its file as --system-prompt"
        )
    lines = "\n".join(f"- {TOOLS[tool]}" for tool in tools)
    tool_use = _TOOL_USE.format(tools=lines) if tools else ""
    before = "call a tool or answer" if tools else "answer"
    return _PROMPT.format(tool_use=tool_use, before=before)


@dataclass(frozen=True)
class SystemPrompt:
    """The system message that rows get."""

    text: str | None
    """Its text; None for no system message."""
    replaces: bool
    """Whether it also replaces the system message that a row has."""


def system_prompt(choice: str, tools: Sequence[str]) -> SystemPrompt:
    """Return what `--system-prompt` asks for.

    Args:
        choice: `auto` (a row's own, ours where it is only a question), `tags` (ours for every row), `none`, or a file.
        tools: of our prompt.

    Raises:
        ValueError: a tool is unknown, or the file has no system prompt.
        OSError: the file can't be read.
    """
    if choice in ("auto", "tags"):
        return SystemPrompt(tag_prompt(tools), replaces=choice == "tags")
    return SystemPrompt(None if choice == "none" else system_prompt_of(Path(choice)), replaces=True)


def system_prompt_of(path: Path) -> str:
    """Return the system prompt in a text file, or that of the first row of a parquet.

    Raises:
        ValueError: there is none.
        OSError: the file can't be read.
    """
    if path.suffix != ".parquet":
        text = path.read_text(encoding="utf-8").strip()
        if not text:
            raise ValueError(f"{path} is empty; expected a system prompt, or --system-prompt none")
        return text
    file = pq.ParquetFile(path)
    if "prompt" not in file.schema_arrow.names:
        raise ValueError(f"{path} has no column 'prompt'; expected verl data or a text file")
    for batch in file.iter_batches(batch_size=1, columns=["prompt"]):
        for message in batch.column(0)[0].as_py() or []:
            if isinstance(message, dict) and message.get("role") == "system":
                return str(message["content"])
        break
    raise ValueError(f"{path}, row 1 has no system message; expected one, or --system-prompt none")
