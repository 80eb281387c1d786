"""Checks of one row of verl data, ours or another's. Pure: a row in, what is wrong with it out."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from arpo_verl.data.schema import ROLES

Row = Mapping[str, Any]

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def prompt_errors(prompt: Any) -> Iterator[str]:
    """Yield what keeps a model from being asked."""
    if not prompt:
        yield "field 'prompt' is empty; expected a list of messages"
        return
    for position, message in enumerate(prompt):
        message = message or {}
        if message.get("role") not in ROLES:
            yield f"field 'prompt': role {message.get('role')!r}; expected one of {', '.join(ROLES)}"
        if not _is_text(message.get("content")):
            yield f"field 'prompt': a message of role {message.get('role')!r} has no content; expected text"
        if message.get("role") == "system" and position > 0:
            yield "field 'prompt': a system message after others; expected it first, as chat templates do"
    last_role = (prompt[-1] or {}).get("role")
    if last_role in ("system", "assistant"):
        yield f"field 'prompt' ends with a message of role {last_role!r}; expected the user's, which the model answers"


def other_errors(row: Row) -> Iterator[str]:
    """Yield what keeps a response from being scored."""
    if not _is_text(row["data_source"]):
        yield "field 'data_source' is empty; expected the name of the dataset, by which metrics are kept apart"
    accepted = answers(row)
    if accepted in ([], [None]):
        yield "field 'reward_model.ground_truth' is empty; expected the accepted answers: no response would be right"
    elif not all(_is_answer(answer) for answer in accepted):
        yield "field 'reward_model.ground_truth' has an answer that is empty or no text; expected text"


def row_warnings(row: Row) -> Iterator[str]:
    """Yield what is odd about the row."""
    texts = [answer.strip() for answer in answers(row) if isinstance(answer, str)]
    if len(set(texts)) < len(texts):
        yield "field 'reward_model.ground_truth' has an answer twice"
    asked = row["prompt"][-1]["content"] if row["prompt"] and row["prompt"][-1] else ""
    if isinstance(asked, str) and (control := _CONTROL.search(asked)):
        yield f"field 'prompt': the question has the character {control[0]!r}: was a \\f, \\b or \\v of LaTeX lost?"


def prompt_oddities(row: Row, tools: Sequence[str] | None) -> Iterator[str]:
    """Yield what may be odd about a whole file's prompts: it would be said for every row.

    Args:
        row: with a prompt that has no error.
        tools: whose tags the prompt should show, beside those of an answer; None: they are not looked for.
    """
    texts = contents(row)
    if row["prompt"][0]["role"] == "system" and (control := _CONTROL.search(texts[0])):
        yield (
            f"have the character {control[0]!r} in their system message: was the \\b of \\boxed read as an escape? "
            f"`convert --system-prompt tags` writes another"
        )
    for tag in () if tools is None else (*(f"<{tool}>" for tool in tools), "<answer>", r"\boxed"):
        if not any(tag in text for text in texts):
            yield f"never show {tag}: does the model know it from its cold start?"


def answers(row: Row) -> list[Any]:
    """Return the accepted answers."""
    truth = (row["reward_model"] or {}).get("ground_truth")
    return truth if isinstance(truth, list) else [truth]


def contents(row: Row) -> list[str]:
    """Return the texts of the prompt's messages."""
    return [message["content"] for message in row["prompt"] or [] if message and _is_text(message.get("content"))]


def question(row: Row) -> str:
    """Return the last message, which asks the question, with its case and spaces evened out."""
    texts = contents(row)
    return " ".join(texts[-1].split()).casefold() if texts else ""


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_answer(value: Any) -> bool:
    return _is_text(value) or (isinstance(value, (int, float)) and not isinstance(value, bool))
