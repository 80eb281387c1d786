r"""The reward (arXiv 2507.19849, equation 8).

    R = max(Acc + r_M, Acc)   if the format is good and Acc > 0
      = 0                     if the format is good and Acc = 0
      = -1                    otherwise
    r_M = 0.1 if the response uses both <search> and <python>, else 0

The format is good if the tags <think>, <search>, <python>, <result> and <answer> are balanced and not nested, there is
exactly one <answer>, nothing comes after it, and it holds a \boxed{}. Unlike the released code, a response need not
have a <think>.
"""

import re
from collections.abc import Iterator
from typing import Any, TypedDict

from arpo_verl.reward.answer import accuracy, extract_boxed

TAGS = ("think", "search", "python", "result", "answer")
MULTI_TOOL_BONUS = 0.1
_TAG = re.compile(rf"<(/?)({'|'.join(TAGS)})>")


class Score(TypedDict):
    """The reward and its parts; verl logs each number as `val-*/<data source>/<part>`."""

    score: float
    acc: float
    """Agreement of the answer with the ground truth, 0 to 1; 0 if the format is bad."""
    format: float
    """1 if the format is good, else 0."""
    multi_tool_bonus: float
    """r_M as far as it was paid."""
    reason: str
    """What decided: `correct`, `partly correct`, `wrong`, or what is wrong with the format."""


def compute_score(data_source: str, solution_str: str, ground_truth: Any, extra_info: Any = None, **_: Any) -> Score:
    """Score one response under verl's reward function signature.

    Args:
        data_source: not used; every source is scored the same way.
        solution_str: the response as text, tool results included.
        ground_truth: the answer as text or number, or a sequence of accepted answers.
        extra_info: not used.
    """
    defect = format_defect(solution_str)
    if defect is not None:
        return Score(score=-1.0, acc=0.0, format=0.0, multi_tool_bonus=0.0, reason=defect)
    prediction = extract_boxed(solution_str[solution_str.rindex("<answer>") :])
    assert prediction is not None, "a good format has a boxed answer"
    is_one = isinstance(ground_truth, (str, int, float))
    truths = [str(ground_truth)] if is_one else [str(truth) for truth in ground_truth]
    acc = accuracy(prediction, truths)
    uses_both = {"search", "python"} <= {match[2] for match in _tags(solution_str)}
    bonus = MULTI_TOOL_BONUS if acc > 0 and uses_both else 0.0
    reason = "correct" if acc == 1 else "partly correct" if acc > 0 else "wrong"
    return Score(score=acc + bonus, acc=acc, format=1.0, multi_tool_bonus=bonus, reason=reason)


def _tags(text: str) -> Iterator[re.Match[str]]:
    """Yield the tags outside tool results: a tool's text may hold anything, even the end of a result in a line."""
    is_result = False
    for match in _TAG.finditer(text):
        slash, tag = match.groups()
        if is_result and not (slash and tag == "result" and text[match.start() - 1] == "\n"):
            continue
        is_result = tag == "result" and not slash
        yield match


def format_defect(text: str) -> str | None:
    """Return what is wrong with the format of a response, or None."""
    inside: str | None = None
    answers = 0
    for match in _tags(text):
        slash, tag = match.groups()
        if slash and tag != inside:
            return f"</{tag}> without <{tag}>"
        if not slash and inside is not None:
            return f"<{tag}> inside <{inside}>"
        inside = None if slash else tag
        answers += tag == "answer" and not slash
    if inside is not None:
        return f"<{inside}> is not closed"
    if answers != 1:
        return f"{answers} answers"
    before, _, after = text.rpartition("</answer>")
    if after.strip():
        return "text after the answer"
    if extract_boxed(before[before.rindex("<answer>") :]) is None:
        return "no boxed answer"
    return None
