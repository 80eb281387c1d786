"""The reward as the released code computes it, for comparison with its results. Not the one to train with.

The rules are those of RUC-NLPIR/ARPO's `verl/utils/reward_score/deep_research.py`, the code is not. They differ from
those of `score.py` in these ways:

* Acc is `released_f1` for every row, for which -5 equals 5.
* The format needs a <think>, allows text after the answer, and looks for a <result> after each <search> and <python>
  in the whole text, tool results included; tags of other kinds may be nested.
* The bonus is paid if `</search>` and `</python>` occur anywhere, in a tool's result as well.
* The box is found by other rules, which `released_box` has: an escaped brace is a brace, a `\\boxed` without one hides
  the others, and `\\boxed 5` counts only beside a `\\boxed{`.
"""

from typing import Any

from arpo_verl.reward.accepted import accepted_answers
from arpo_verl.reward.prefill import whole_response
from arpo_verl.reward.published import released_f1
from arpo_verl.reward.score import Score, make_score


def compute_reference_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Any = None,
    response_prefix: str | None = None,
    **_: Any,
) -> Score:
    """Score one response under verl's reward function signature; see `compute_score`.

    Selected by `reward.custom_reward_function.name=compute_reference_score`. A response whose `<think>` stands in the
    prompt is scored with it, where the rollout or `response_prefix` says so; the released code scores it -1.
    """
    text = whole_response(solution_str, extra_info, response_prefix, is_guessed=False)
    defect = released_format_defect(text)
    if defect is not None:
        return make_score(defect=defect)
    prediction = released_box(_answer(text).removeprefix("<answer>"))
    if prediction is None:
        return make_score(defect="no boxed answer")
    uses_both = "</search>" in text and "</python>" in text
    return make_score(released_f1(prediction, accepted_answers(ground_truth)), uses_both)


def released_box(answer: str) -> str | None:
    r"""Return the answer in the box that the released code finds, None where it finds none.

    >>> released_box(r"\boxed{Paris\}"), released_box(r"\boxed{Paris} \boxed"), released_box(r"\boxed{5} or \boxed 6$")
    ('Paris\\', None, '6')
    """
    _, spaced, unbraced = answer.rpartition("\\boxed ")
    if spaced:
        return unbraced.partition("$")[0]
    start = answer.rfind("\\boxed")
    depth = 0
    for position in range(max(start, 0), len(answer)):
        depth += {"{": 1, "}": -1}.get(answer[position], 0)
        if answer[position] == "}" and depth == 0:
            box = answer[start : position + 1]
            return box[len("\\boxed{") : -1] if box.startswith("\\boxed{") else None
    return None


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
