r"""The reward (arXiv 2507.19849, equation 8).

    R = max(Acc + r_M, Acc)   if the format is good and Acc > 0
      = 0                     if the format is good and Acc = 0
      = -1                    otherwise
    r_M = 0.1 if the response uses both <search> and <python>, else 0

What a good format is says `response_format.py`. Unlike the released code, a response need not have a <think>;
`reference.py` is the reward as released.

Acc is 0 or 1 for a row of mathematics (`math_check.py`), and the best token F1 of the accepted answers for any other,
numbers by value (`text_match.py`). Which rows are mathematics: see `subject.py`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypedDict

from arpo_verl.reward.accepted import accepted_answers
from arpo_verl.reward.answer import extract_boxed
from arpo_verl.reward.math_check import CHECK_TIMEOUT_SECONDS, MathChecker, MathCheckResult
from arpo_verl.reward.prefill import whole_response
from arpo_verl.reward.published import squad_f1
from arpo_verl.reward.response_format import called_tools, format_defect
from arpo_verl.reward.subject import is_mathematics
from arpo_verl.reward.text_match import token_f1

MULTI_TOOL_BONUS = 0.1
TEXT_COMPARISONS: dict[str, Callable[[str, Sequence[str]], float]] = {"default": token_f1, "squad": squad_f1}
"""The values of `reward_kwargs.text_comparison`."""
_REASONS = {
    MathCheckResult.TIMEOUT: "the check of the answer timed out",
    MathCheckResult.TOO_LONG: "the answer is too long to check",
    MathCheckResult.FAILED: "the check of the answer failed",
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
    *,
    check_timeout_seconds: float = CHECK_TIMEOUT_SECONDS,
    **keywords: Any,
) -> Score:
    """Score one response under verl's reward function signature.

    It is no coroutine on purpose: verl's reward loop then calls it in a thread (`reward_loop/reward_manager/naive.py`),
    where neither a long response nor a slow comparison holds up the event loop, and anything else can just call it.

    An answer that could not be compared counts as wrong, and is counted, in `check_timeout` and `check_failed`. It is
    not NaN, which would leave it out of ARPO's loss, because other estimators and the means of verl's validation would
    become NaN with it, and because nearly all such answers are wrong.

    Args:
        data_source: see `subject.py`.
        solution_str: the response as text, tool results included.
        ground_truth: see `accepted.py`.
        extra_info: `ability`, for which see `subject.py`, and `response_prefix`, for which see `prefill.py`.
        check_timeout_seconds: for the comparison of mathematics.
        keywords: `text_comparison`, `squad` for the published F1 of SQuAD where text is compared, and
            `response_prefix`; both and the time are set by `reward.custom_reward_function.reward_kwargs`. What else
            verl hands over is ignored.

    Raises:
        ValueError: the ground truth is none, or `text_comparison` is not known.
    """
    text_comparison = _text_comparison(keywords.get("text_comparison", "default"))
    truths = accepted_answers(ground_truth)
    text = whole_response(solution_str, extra_info, keywords.get("response_prefix"), is_guessed=True)
    defect = format_defect(text)
    if defect is not None:
        return make_score(defect=defect)
    prediction = extract_boxed(text.rpartition("</answer>")[0].rpartition("<answer>")[2])
    assert prediction is not None, "a good format has a boxed answer"
    uses_both = {"search", "python"} <= called_tools(text)
    if not is_mathematics(data_source, extra_info):
        return make_score(text_comparison(prediction, truths), uses_both)
    check = _checker().check(prediction, truths, check_timeout_seconds)
    return make_score(float(check is MathCheckResult.EQUAL), uses_both, check)


def _text_comparison(name: str) -> Callable[[str, Sequence[str]], float]:
    if name not in TEXT_COMPARISONS:
        raise ValueError(
            f"text_comparison={name!r}; expected one of {', '.join(TEXT_COMPARISONS)}: change "
            f"reward.custom_reward_function.reward_kwargs.text_comparison"
        )
    return TEXT_COMPARISONS[name]


def make_score(
    acc: float = 0.0, uses_both_tools: bool = False, check: MathCheckResult | None = None, defect: str | None = None
) -> Score:
    """Return the reward of equation 8 with its parts; a defect of format makes it -1."""
    bonus = MULTI_TOOL_BONUS if acc > 0 and uses_both_tools else 0.0
    reason = "correct" if acc == 1 else "partly correct" if acc > 0 else "wrong"
    return Score(
        score=-1.0 if defect is not None else acc + bonus,
        acc=acc,
        format=float(defect is None),
        multi_tool_bonus=bonus,
        check_timeout=float(check is MathCheckResult.TIMEOUT),
        check_failed=float(check in (MathCheckResult.TOO_LONG, MathCheckResult.FAILED)),
        reason=defect or (_REASONS.get(check, reason) if check else reason),
    )


@functools.cache
def _checker() -> MathChecker:
    return MathChecker()
