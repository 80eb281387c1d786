"""The reward as the released code computes it, for comparison with its results. Not the one to train with.

The rules are those of RUC-NLPIR/ARPO's `verl/utils/reward_score/deep_research.py`, the code is not. They differ from
those of `score.py` in three ways:

* Acc is `released_f1` for every row, for which -5 equals 5.
* The format needs a <think>, allows text after the answer, and looks for a <result> after each <search> and <python>
  in the whole text, tool results included; tags of other kinds may be nested.
* The bonus is paid if `</search>` and `</python>` occur anywhere, in a tool's result as well.

A `\boxed 5` without braces beside a `\boxed{}` is not looked for.
"""

from typing import Any

from arpo_verl.reward.accepted import accepted_answers
from arpo_verl.reward.answer import extract_boxed, released_f1
from arpo_verl.reward.score import Score, make_score


def compute_reference_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: Any = None, **_: Any
) -> Score:
    """Score one response under verl's reward function signature; see `compute_score`.

    Selected by `reward.custom_reward_function.name=compute_reference_score`.
    """
    defect = released_format_defect(solution_str)
    if defect is not None:
        return make_score(defect=defect)
    prediction = extract_boxed(_answer(solution_str))
    if prediction is None:
        return make_score(defect="no boxed answer")
    uses_both = "</search>" in solution_str and "</python>" in solution_str
    return make_score(released_f1(prediction, accepted_answers(ground_truth)), uses_both)


def released_format_defect(text: str) -> str | None:
    """Return what is wrong with the format of a response by the released rules, or None."""
    if text.count("<think>") != text.count("</think>"):
        return "<think> and </think> are not paired"
    if "<think>" not in text:
        return "no <think>"
    if text.count("<answer>") != 1 or text.count("</answer>") != 1:
        return "not one <answer> and one </answer>"
    for tool in ("search", "python"):
        if not _has_results(text, tool):
            return f"<{tool}> without </{tool}>, <result> and </result> in this order after it"
    if text.index("<answer>") > text.index("</answer>"):
        return "</answer> before <answer>"
    if "\\boxed{" not in _answer(text) or "}" not in _answer(text):
        return "no boxed answer"
    return None


def _has_results(text: str, tool: str) -> bool:
    """Return whether each call is followed by its end and a result, the next call being looked for after that."""
    position = text.find(f"<{tool}>")
    while position >= 0:
        end = text.find(f"</{tool}>", position)
        result = text.find("<result>", position)
        result_end = text.find("</result>", result) if result >= 0 else -1
        if not position < end < result < result_end:
            return False
        position = text.find(f"<{tool}>", result_end)
    return True


def _answer(text: str) -> str:
    return text[text.index("<answer>") : text.index("</answer>")]
