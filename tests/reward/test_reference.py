r"""The reward as the released code computes it: where it agrees with ours, and where it does not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arpo_verl.reward import compute_reference_score, compute_score
from arpo_verl.reward.response_format import TAGS

THINK = "<think>hm</think>"
RIGHT = r"<answer>\boxed{5}</answer>"
SEARCH = "<search>two plus three</search> <result>\nPage 1: five\n</result>"
PYTHON = "<python>2+3</python> <result>\n5\n</result>"


def reference(text: str, truth="5") -> float:
    return compute_reference_score("any", text, truth)["score"]


@pytest.mark.parametrize(
    ("text", "truth", "reward"),
    [
        (THINK + RIGHT, "5", 1.0),
        (THINK + SEARCH + RIGHT, "5", 1.0),
        (THINK + SEARCH + THINK + PYTHON + RIGHT, "5", 1.1),
        (THINK + SEARCH + PYTHON + RIGHT, "6", 0.0),
        (THINK + RIGHT, ["6", "5"], 1.0),
        (THINK + RIGHT, 5, 1.0),
        (THINK + r"<answer>It is \[ \boxed{red cat} \]</answer>", "red dog", 0.5),
        (SEARCH + "5", "5", -1.0),
        (THINK + "<answer>5</answer>", "5", -1.0),
        (THINK + r"<answer>\boxed{5</answer>", "5", -1.0),
        (THINK + RIGHT + RIGHT, "5", -1.0),
    ],
)
def test_both_rewards_agree_on_what_the_paper_says(text, truth, reward):
    assert reference(text, truth) == pytest.approx(reward)
    assert compute_score("any", text, truth)["score"] == pytest.approx(reward)


@pytest.mark.parametrize(
    ("text", "truth", "released", "ours"),
    [
        # Punctuation is deleted from numbers.
        (THINK + RIGHT, "-5", 1.0, 0.0),
        (THINK + r"<answer>\boxed{3.14}</answer>", "314", 1.0, 0.0),
        (THINK + r"<answer>\boxed{1/2}</answer>", "12", 1.0, 0.0),
        (THINK + r"<answer>\boxed{5.0}</answer>", "5", 0.0, 1.0),
        # A <think> is needed, an empty one will do.
        (RIGHT, "5", -1.0, 1.0),
        ("<think></think>" + RIGHT, "5", 1.0, 1.0),
        # Text may follow the answer.
        (THINK + RIGHT + " Yes!", "5", 1.0, -1.0),
        # The bonus is paid for tags in a tool's result.
        (THINK + "<python>1</python> <result>\n</search>\n</result>" + RIGHT, "5", 1.1, 1.0),
        # A call must have a result; any result after it counts.
        (THINK + "<python>1</python>" + RIGHT, "5", -1.0, 1.0),
        (THINK + "<search>a</search><python>1</python><result>\n</result>" + RIGHT, "5", 1.1, 1.1),
        (THINK + "<search>a<python>1</python></search><result>\n</result>" + RIGHT, "5", 1.1, -1.0),
        # An escaped brace is a brace, and a box without one hides the others or comes before them.
        (THINK + r"<answer>\boxed{5\}</answer>", "5", 1.0, -1.0),
        (THINK + r"<answer>\boxed{5} so \boxed</answer>", "5", -1.0, 1.0),
        (THINK + r"<answer>\boxed{5} so \boxed{5</answer>", "5", -1.0, -1.0),
        (THINK + r"<answer>\boxed{6} or \boxed 5$</answer>", "5", 1.0, 0.0),
        (THINK + r"<answer>\boxed 5</answer>", "5", -1.0, 1.0),
        (THINK + r"<answer>\fbox{5}</answer>", "5", -1.0, 1.0),
        (THINK + "<answer>\\boxed{6}\\boxed\n{5}</answer>", "5", -1.0, 1.0),
        (THINK + r"<answer>\boxed{\{5\}}</answer>", "5", 1.0, 1.0),
        # What a result quotes counts as the model's own.
        (THINK + "<search>a</search> <result>\n<answer>\n</result>" + RIGHT, "5", -1.0, 1.0),
    ],
)
def test_where_the_released_reward_differs(text, truth, released, ours):
    assert reference(text, truth) == pytest.approx(released)
    assert compute_score("any", text, truth)["score"] == pytest.approx(ours)


@pytest.mark.parametrize(
    "text",
    [
        "",
        RIGHT + "</think>",
        "<think>" + RIGHT,
        THINK + "</answer><answer>",
        THINK + "<search>" + RIGHT,
        THINK + "<python>1</python></result><result>" + RIGHT,
        THINK + "<python>1<result>\n</result></python>" + RIGHT,
        THINK + PYTHON + "<python>1</python>" + RIGHT,
    ],
)
def test_a_defect_of_the_released_format_costs_1_and_is_named(text):
    parts = compute_reference_score("any", text, "5")
    assert (parts["score"], parts["acc"], parts["format"], parts["multi_tool_bonus"]) == (-1, 0, 0, 0)
    assert parts["reason"] not in ("", "correct", "partly correct", "wrong")


PIECES = [f"<{slash}{tag}>" for tag in TAGS for slash in ("", "/")]


@given(
    st.lists(
        st.sampled_from([*PIECES, r"\boxed{", "}", "5", "the", THINK, SEARCH, PYTHON, RIGHT]) | st.text(), max_size=8
    ).map("".join),
    st.text() | st.lists(st.text()),
)
@settings(deadline=None)
def test_any_text_has_a_reference_score(text, truth):
    parts = compute_reference_score("any", text, truth)
    assert parts["score"] == -1 or 0 <= parts["score"] <= 1.1
    assert parts.keys() == compute_score("any", text, truth).keys()
