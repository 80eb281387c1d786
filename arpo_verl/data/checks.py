"""Checks of one row of verl data: pure functions from a row to its faults.

`row_faults` is the one check of a row in pre-flight, doctor, `data validate` and evaluation.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from arpo_verl.data.schema import ROLES
from arpo_verl.reward.accepted import AnswerError, accepted_answers, ground_truth_fault, short_repr
from arpo_verl.rollout.hints import solution_of

Row = Mapping[str, Any]

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_UNANSWERED_ROLES = ("user", "tool")
"""Roles of a last message, which the model answers."""
_TRUTH = "field 'reward_model.ground_truth'"


@dataclass(frozen=True)
class RowNeeds:
    """The requirements of a run on each row."""

    prompt_key: str = "prompt"
    """verl's `data.prompt_key`."""
    accepts_any_ground_truth: bool = False
    """Whether the run has a reward function of the user's own, for which the ground truth need only be there."""
    solution_field: str | None = None
    """Where a row has its gold solution, as `extra_info.solution`, in a run that shows its beginning as a hint."""


@dataclass(frozen=True)
class RowFault:
    """A fault of a row that keeps a run from using it."""

    kind: str
    """The fault and what was expected; equal for equal faults."""
    got: str = ""
    """The value, shortened, where it differs from row to row."""
    is_of_prompt: bool = False
    """Whether it is a fault of the prompt, so that a model can't be asked."""

    def __str__(self) -> str:
        if not self.got:
            return self.kind
        what, separator, expected = self.kind.partition("; ")
        return f"{what}, got {self.got}{separator}{expected}"


def row_faults(row: Row, needs: RowNeeds) -> Iterator[RowFault]:
    """Yield the faults that keep a run from asking the row's question, or from scoring a response to it."""
    for kind, got in _prompt_faults(row.get(needs.prompt_key), f"field {needs.prompt_key!r}"):
        yield RowFault(kind, got, is_of_prompt=True)
    source = row.get("data_source")
    if not _is_text(source):
        kind = "field 'data_source' is empty" if source in (None, "") else "field 'data_source' is not a name"
        expected = "expected the name of the dataset, by which metrics are kept apart"
        yield RowFault(f"{kind}; {expected}", "" if source in (None, "") else short_repr(source))
    yield from _truth_faults(row.get("reward_model"), needs.accepts_any_ground_truth)
    extra = row.get("extra_info")
    if extra is not None and not isinstance(extra, Mapping):
        yield RowFault(f"field 'extra_info' is a {_kind(extra)}; expected a struct, or none", short_repr(extra))
    if needs.solution_field is not None and solution_of(row, needs.solution_field) is None:
        yield RowFault(
            f"field {needs.solution_field!r} has no text; expected the gold solution, of which arpo.hints shows the "
            f"beginning"
        )


def _prompt_faults(prompt: Any, name: str) -> Iterator[tuple[str, str]]:
    """Yield the kind of each fault of a prompt, and what was got."""
    expected = "expected a list of messages, each with a role and a content"
    if prompt is None or prompt == [] or prompt == "":
        yield f"{name} is empty; {expected}", ""
        return
    if not isinstance(prompt, list) or not all(isinstance(message, Mapping) for message in prompt):
        kind = "is a list of other things" if isinstance(prompt, list) else f"is a {_kind(prompt)}"
        yield f"{name} {kind}; {expected}", short_repr(prompt)
        return
    roles = [message.get("role") for message in prompt]
    for message in prompt:
        yield from _message_faults(message, name)
    if roles[-1] in ROLES and roles[-1] not in _UNANSWERED_ROLES:
        yield f"{name} ends with a message of role {roles[-1]!r}; expected the user's, which the model answers", ""
    elif "user" not in roles and all(role in ROLES for role in roles):
        yield f"{name} has no message of role 'user'; expected a question", ""


def _message_faults(message: Mapping[str, Any], name: str) -> Iterator[tuple[str, str]]:
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        yield f"{name} has the role {short_repr(role)}; expected one of {', '.join(ROLES)}", ""
    if not _is_text(content):
        has = "no content" if content is None or isinstance(content, str) else f"a {_kind(content)} as content"
        yield (
            f"{name}: a message of role {short_repr(role)} has {has}; expected text",
            "" if content is None else short_repr(content),
        )


def _truth_faults(reward_model: Any, accepts_any: bool) -> Iterator[RowFault]:
    if reward_model is not None and not isinstance(reward_model, Mapping):
        kind = f"field 'reward_model' is a {_kind(reward_model)}; expected a struct with ground_truth"
        yield RowFault(kind, short_repr(reward_model))
        return
    truth = (reward_model or {}).get("ground_truth")
    if accepts_any:
        if truth is None:
            yield RowFault(f"{_TRUTH} is null; expected what the reward function compares with")
        return
    fault = ground_truth_fault(truth)
    if fault is not None:
        expected = "expected the accepted answers: a text, a number or a list of them, none of them blank"
        yield RowFault(f"{_TRUTH} {fault}; {expected}", "" if truth is None else short_repr(truth))


def template_faults(prompt: Any, key: str = "prompt") -> Iterator[RowFault]:
    """Yield what many chat templates refuse or drop, of a prompt without `prompt_faults`."""
    if any(message["role"] == "system" for message in prompt[1:]):
        yield RowFault(f"field {key!r} has a system message after others; expected it first, as chat templates do")


def row_warnings(row: Row) -> Iterator[str]:
    """Yield the warnings about the row."""
    texts = answers(row)
    if len(set(texts)) < len(texts):
        yield f"{_TRUTH} has an answer twice"
    if control := _CONTROL.search((contents(row) or [""])[-1]):
        yield f"field 'prompt': the question has the character {control[0]!r}: was a \\f, \\b or \\v of LaTeX lost?"


def prompt_oddities(row: Row, tools: Sequence[str] | None) -> Iterator[str]:
    """Yield what may be odd about a whole file's prompts: it would be said for every row.

    Args:
        row: with a prompt that has no fault.
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


def answers(row: Row) -> list[str]:
    """Return the accepted answers, none where the ground truth is no answer."""
    reward_model = row.get("reward_model")
    try:
        return accepted_answers(reward_model.get("ground_truth")) if isinstance(reward_model, Mapping) else []
    except AnswerError:
        return []


def contents(row: Row) -> list[str]:
    """Return the texts of the prompt's messages."""
    prompt = row.get("prompt")
    messages = prompt if isinstance(prompt, list) else []
    return [one["content"] for one in messages if isinstance(one, Mapping) and _is_text(one.get("content"))]


def question(row: Row) -> str:
    """Return the last message, which asks the question, with its case and spaces evened out."""
    texts = contents(row)
    return " ".join(texts[-1].split()).casefold() if texts else ""


def extra_info(row: Row) -> Mapping[str, Any]:
    """Return the row's `extra_info`, empty where it has none or a wrong one."""
    extra = row.get("extra_info")
    return extra if isinstance(extra, Mapping) else {}


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _kind(value: Any) -> str:
    return "text" if isinstance(value, str) else type(value).__name__
