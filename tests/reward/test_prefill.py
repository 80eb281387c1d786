r"""Chat templates that open `<think>` for the model: how they are known, and how the rewards read what follows."""

import pytest

from arpo_verl.evaluation.prediction import prediction_of
from arpo_verl.integration.rollout.chat_template import chat_prefix, plain_json
from arpo_verl.reward import compute_reference_score, compute_score
from arpo_verl.reward.prefill import template_prefix, whole_response
from arpo_verl.tiny_world.model import make_tokenizer

REWARDS = [compute_score, compute_reference_score]
ANSWER = r"<answer>\boxed{4}</answer>"
R1 = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
R1 += "{% if add_generation_prompt %}<|assistant|>{}{% endif %}"
QWEN = "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"


def tokenizer(beginning: str):
    made = make_tokenizer()
    made.chat_template = R1.replace("{}", beginning)
    return made


@pytest.mark.parametrize(
    ("beginning", "prefix"),
    [
        ("<think>\n", "<think>\n"),
        ("<think>", "<think>"),
        ("\n<think>\n\n", "<think>\n\n"),
        ("<think>\nOkay, ", "<think>\nOkay, "),
        ("<think>\n\n</think>\n\n", ""),
        ("<think></think><think>", "<think>"),
        ("", ""),
        ("<thinking>", ""),
        ("</think>", ""),
    ],
)
def test_the_template_says_what_it_opens(beginning, prefix):
    assert chat_prefix(tokenizer(beginning)) == prefix


def test_the_switches_of_the_template_count():
    assert chat_prefix(tokenizer(QWEN), plain_json({"enable_thinking": False})) == ""
    switched = tokenizer("{% if enable_thinking is defined and enable_thinking %}<think>{% endif %}")
    assert chat_prefix(switched, plain_json({"enable_thinking": True})) == "<think>"
    assert chat_prefix(switched) == ""


def test_a_template_that_refuses_a_question_says_nothing():
    assert chat_prefix(tokenizer("{{ raise_exception('no') }}")) is None


def test_a_question_that_ends_in_the_tag_opens_nothing():
    assert template_prefix(lambda messages, begins: "What does <think> mean? <think>" + "<model>" * begins) == ""


@pytest.mark.parametrize("reward", REWARDS)
@pytest.mark.parametrize(
    "response",
    [
        "First.\n</think>\n" + ANSWER,
        "</think>" + ANSWER,
        "First.</think><search>q</search> <result>\nx\n</result><think>So.</think>" + ANSWER,
        "I look. <search>q</search> <result>\nx\n</result> It is 4.\n</think>\n" + ANSWER,
        "<think>First.</think>" + ANSWER,  # the model writes the tag again
    ],
)
def test_a_response_that_begins_inside_its_think_is_scored_right(reward, response):
    told = {"response_prefix": "<think>\n"}
    assert reward("nq", response, "4", extra_info=told)["score"] == 1.0
    assert reward("nq", response, "4", response_prefix="<think>\n")["score"] == 1.0
    assert reward("math500", response, "4", extra_info=told)["score"] == 1.0


@pytest.mark.parametrize("reward", REWARDS)
@pytest.mark.parametrize(
    "response",
    [
        "First." + ANSWER,
        "First.</think></think>" + ANSWER,
        "First.</think>4",
        "First.<think>x</think></think>" + ANSWER,
    ],
)
def test_a_think_that_is_not_closed_once_is_a_defect_all_the_same(reward, response):
    assert reward("nq", response, "4", extra_info={"response_prefix": "<think>\n"})["score"] == -1


def test_without_a_word_from_the_rollout_the_default_reward_reads_it_so_and_the_released_one_as_released():
    response = "First.\n</think>\n" + ANSWER
    assert compute_score("nq", response, "4")["score"] == 1.0
    assert compute_reference_score("nq", response, "4")["score"] == -1.0
    # The rollout knows that the template opens nothing.
    assert compute_score("nq", response, "4", extra_info={"response_prefix": ""})["score"] == -1.0


def test_the_configuration_counts_more_than_the_rollout():
    told = {"response_prefix": "<think>"}
    assert compute_score("nq", "x</think>" + ANSWER, "4", extra_info=told, response_prefix="")["score"] == -1.0


def test_the_evaluations_record_begins_with_what_the_template_opened():
    output = whole_response("It is 4.</think>" + ANSWER, None, "<think>\n", is_guessed=False)
    assert output == "<think>\nIt is 4.</think>" + ANSWER
    assert prediction_of(output) == "4"
    assert compute_score("nq", output, "4", extra_info={"level": 1})["score"] == 1.0
