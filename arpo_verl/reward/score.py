r"""The reward (arXiv 2507.19849, equation 8).

    R = max(Acc + r_M, Acc)   if the format is good and Acc > 0
      = 0                     if the format is good and Acc = 0
      = -1                    otherwise
    r_M = 0.1 if the response uses both <search> and <python>, else 0

The format is good if the tags <think>, <search>, <python>, <result> and <answer> are balanced and not nested, there is
exactly one <answer>, nothing comes after it, and it holds a \boxed{}. Unlike the released code, a response need not
have a <think>; `reference.py` is the reward as released.

Acc is 0 or 1 for a row of mathematics (`math_check.py`), and the best token F1 of the accepted answers for any other,
numbers by value (`answer.py`). Which rows are mathematics: see `is_mathematics`.
"""

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypedDict

from arpo_verl.reward.accepted import accepted_answers
from arpo_verl.reward.answer import extract_boxed, token_f1
from arpo_verl.reward.math_check import CHECK_TIMEOUT_SECONDS, MathChecker, Verdict

TAGS = ("think", "search", "python", "result", "answer")
MULTI_TOOL_BONUS = 0.1
_TAG = re.compile(rf"<(/?)({'|'.join(TAGS)})>")
_MATHEMATICS = re.compile(r"math|gsm8k|olympiad|(?<![a-z])(?:aime|amc)(?![a-z])", re.IGNORECASE)
_REASONS = {
    Verdict.TIMEOUT: "the check of the answer timed out",
    Verdict.TOO_LONG: "the answer is too long to check",
    Verdict.FAILED: "the check of the answer failed",
}


class Score(TypedDict):
    """The reward and its parts; verl logs each number as `val-*/<data source>/<part>`."""

    score: float
    acc: float
    """Agreement of the answer with the ground truth, 0 to 1; 0 if the format is bad."""
    format: float
    """1 if the format is good, else 0."""
    multi_tool_bonus: float
    """r_M as far as it was paid."""
    check_timeout: float
    """1 if comparing the answer took too long, else 0. Such an answer counts as wrong."""
    check_failed: float
    """1 if the answer could not be compared for another reason, which `reason` names, else 0. It counts as wrong."""
    reason: str
    """`correct`, `partly correct`, `wrong`, what is wrong with the format, or why nothing was compared."""


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Any = None,
    check_timeout_seconds: float = CHECK_TIMEOUT_SECONDS,
    **_: Any,
) -> Score:
    """Score one response under verl's reward function signature.

    It is no coroutine on purpose: verl's reward loop then calls it in a thread (`reward_loop/reward_manager/naive.py`),
    where neither a long response nor a slow comparison holds up the event loop, and anything else can just call it.

    An answer that could not be compared counts as wrong, and is counted, in `check_timeout` and `check_failed`. It is
    not NaN, which would leave it out of ARPO's loss, because other estimators and the means of verl's validation would
    become NaN with it, and because nearly all such answers are wrong.

    Args:
        data_source: see `is_mathematics`.
        solution_str: the response as text, tool results included.
        ground_truth: the answer as text or number, or a sequence of accepted answers.
        extra_info: see `is_mathematics`.
        check_timeout_seconds: for the comparison of mathematics, by
            `reward.custom_reward_function.reward_kwargs.check_timeout_seconds`.

    Raises:
        ValueError: the ground truth is none.
    """
    truths = accepted_answers(ground_truth)
    defect = format_defect(solution_str)
    if defect is not None:
        return make_score(defect=defect)
    prediction = extract_boxed(solution_str[solution_str.rindex("<answer>") :])
    assert prediction is not None, "a good format has a boxed answer"
    uses_both = {"search", "python"} <= {match[2] for match in _tags(solution_str)}
    if not is_mathematics(data_source, extra_info):
        return make_score(token_f1(prediction, truths), uses_both)
    verdict = _checker().check(prediction, truths, check_timeout_seconds)
    return make_score(float(verdict is Verdict.EQUAL), uses_both, verdict)


def is_mathematics(data_source: str, extra_info: Any = None) -> bool:
    """Choose the comparison of a row.

    | the first that is there   | mathematics if it has                | else    |
    |---------------------------|--------------------------------------|---------|
    | `extra_info["ability"]`   | `math`                               | text F1 |
    | `data_source`             | math, gsm8k, olympiad, `aime`, `amc` | text F1 |

    verl doesn't hand the column `ability` to a reward function, so it has to be in `extra_info`.
    """
    ability = extra_info.get("ability") if isinstance(extra_info, Mapping) else None
    return bool(_MATHEMATICS.search(str(ability or data_source)))


def make_score(
    acc: float = 0.0, uses_both_tools: bool = False, verdict: Verdict | None = None, defect: str | None = None
) -> Score:
    """Return the reward of equation 8 with its parts; a defect of format makes it -1."""
    bonus = MULTI_TOOL_BONUS if acc > 0 and uses_both_tools else 0.0
    reason = "correct" if acc == 1 else "partly correct" if acc > 0 else "wrong"
    return Score(
        score=-1.0 if defect is not None else acc + bonus,
        acc=acc,
        format=float(defect is None),
        multi_tool_bonus=bonus,
        check_timeout=float(verdict is Verdict.TIMEOUT),
        check_failed=float(verdict in (Verdict.TOO_LONG, Verdict.FAILED)),
        reason=defect or (_REASONS.get(verdict, reason) if verdict else reason),
    )


@functools.cache
def _checker() -> MathChecker:
    return MathChecker()


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
