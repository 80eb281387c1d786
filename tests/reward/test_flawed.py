"""The penalty on right answers with flawed reasoning."""

import sys

import pytest

from arpo_verl.reward import compute_flawed_score
from arpo_verl.reward.flawed import _function

OWN = """
asked = []

def guesses(solution_str, extra_info):
    asked.append(solution_str)
    return "guess" in solution_str

async def judge(solution_str, reward_router_address=None, **others):
    return reward_router_address == "judge:1" and "guess" in solution_str

def broken(solution_str):
    raise OSError("the judge is gone")

def vague(solution_str):
    return "perhaps"

number = 3
"""
RIGHT = "so <answer>\\boxed{48}</answer>"
GUESSED = "I guess <answer>\\boxed{48}</answer>"


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    (tmp_path / "arpo_own_judge.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("arpo_own_judge", None)
    _function.cache_clear()


def scored(response: str, flawed: str = "guesses", **settings):
    return compute_flawed_score("qa", response, "48", {}, flawed=f"arpo_own_judge.{flawed}", **settings)


@pytest.mark.parametrize(
    ("response", "score", "flawed"),
    [(RIGHT, 1.0, 0.0), (GUESSED, 0.0, 1.0), ("I guess <answer>\\boxed{47}</answer>", -1.0, 0.0), ("48", -1.0, 0.0)],
)
def test_a_right_answer_is_worth_1_a_flawed_one_0_and_a_wrong_one_minus_1(response, score, flawed):
    parts = scored(response)
    assert (parts["score"], parts["flawed"], parts["flaw_unknown"]) == (score, flawed, 0.0)


def test_right_answers_alone_are_judged():
    scored("<answer>\\boxed{47}</answer>")
    scored(RIGHT)
    assert sys.modules["arpo_own_judge"].asked[-1:] == [RIGHT]


def test_a_judge_may_be_a_coroutine_function_and_gets_verls_keywords():
    assert scored(GUESSED, "judge", reward_router_address="judge:1", reward_model_tokenizer=None)["score"] == 0.0
    assert scored(GUESSED, "judge")["score"] == 1.0


@pytest.mark.parametrize("flawed", ["broken", "vague"])
def test_a_judge_that_fails_costs_no_right_answer_and_is_counted(flawed, caplog):
    parts = scored(GUESSED, flawed)
    assert (parts["score"], parts["flawed"], parts["flaw_unknown"]) == (1.0, 0.0, 1.0)
    assert "flawed" in caplog.text


def test_an_answer_may_be_right_from_a_lower_agreement_on():
    half = "<answer>\\boxed{red house}</answer>"
    given = {"flawed": "arpo_own_judge.guesses"}
    assert compute_flawed_score("qa", half, "red", {"ability": "qa"}, **given)["score"] == -1.0
    assert compute_flawed_score("qa", half, "red", {"ability": "qa"}, correct_from=0.6, **given)["score"] == 1.0


@pytest.mark.parametrize("flawed", ["none", "number"])
def test_a_function_that_cant_be_found_is_named(flawed):
    with pytest.raises(ValueError, match=r"reward_kwargs\.flawed"):
        scored(RIGHT, flawed)
