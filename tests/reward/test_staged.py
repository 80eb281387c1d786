"""The reward in two stages, which knows the training step."""

import pytest

from arpo_verl.reward import compute_staged_score

SEARCHED = "<search>Zorvia</search> <result>\n48\n</result><answer>\\boxed{48}</answer>"
AT_ONCE = "<answer>\\boxed{48}</answer>"
COMPUTED = "<python>40+8</python> <result>\n48\n</result><answer>\\boxed{48}</answer>"
HALF = "<search>a</search> <result>\nb\n</result><answer>\\boxed{red house}</answer>"
WRONG = SEARCHED.replace("{48}", "{47}")
BAD = "<search>Zorvia</search> the answer is 48"


def staged(response: str, step: int, truth: str = "48", **settings):
    settings = {"stage_one_steps": 10} | settings
    return compute_staged_score("qa", response, truth, {"global_steps": step, "ability": "qa"}, **settings)


@pytest.mark.parametrize(
    ("response", "truth", "first", "second"),
    [
        (SEARCHED, "48", 1.5, 1.0),
        (AT_ONCE, "48", 1.0, 1.0),
        (COMPUTED, "48", 1.0, 1.0),
        (WRONG, "48", 0.5, 0.0),
        (BAD, "48", 0.0, -2.0),
        # F1 of "red house" and "red": precision 1/2, recall 1.
        (HALF, "red", 0.5 + 2 / 3, 2 / 3),
    ],
)
def test_stage_1_pays_for_searching_and_stage_2_punishes_a_bad_format(response, truth, first, second):
    assert staged(response, 10, truth)["score"] == pytest.approx(first)
    assert staged(response, 11, truth)["score"] == pytest.approx(second)


def test_the_parts_say_why():
    assert staged(SEARCHED, 3) == {
        "score": 1.5,
        "acc": 1.0,
        "format": 1.0,
        "retrieved": 1.0,
        "stage": 1.0,
        "check_timeout": 0.0,
        "check_failed": 0.0,
        "reason": "correct",
    }
    bad = staged(BAD, 30)
    assert (bad["stage"], bad["format"], bad["acc"], bad["score"]) == (2.0, 0.0, 0.0, -2.0)


def test_other_tools_may_count_as_searching():
    assert staged(COMPUTED, 1, retrieval_tools=["python"])["score"] == 1.5


def test_without_a_first_stage_the_second_begins_at_once():
    assert staged(SEARCHED, 1, stage_one_steps=0)["stage"] == 2.0


@pytest.mark.parametrize("extra_info", [None, {}, {"global_steps": None}, {"global_steps": "3"}])
def test_a_reward_that_is_not_told_the_step_says_so(extra_info):
    with pytest.raises(ValueError, match=r"extra_info\['global_steps'\]=.*; expected the training step"):
        compute_staged_score("qa", AT_ONCE, "48", extra_info, stage_one_steps=1)


@pytest.mark.parametrize("steps", [-1, 1.5, True, "10"])
def test_a_number_of_steps_that_cant_be_one_is_refused(steps):
    with pytest.raises(ValueError, match="stage_one_steps="):
        staged(AT_ONCE, 1, stage_one_steps=steps)
