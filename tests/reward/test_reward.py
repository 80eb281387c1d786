r"""The reward of arXiv 2507.19849, equation 8: its table, every defect of format, which comparison a row gets."""

import subprocess
import sys

import numpy
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from arpo_verl.reward import compute_score
from arpo_verl.reward.math_check import MathChecker
from arpo_verl.reward.response_format import TAGS, format_defect
from arpo_verl.reward.subject import is_mathematics

RIGHT = r"<answer>\boxed{5}</answer>"
WRONG = r"<answer>\boxed{6}</answer>"
SEARCH = "<search>two plus three</search> <result>\nPage 1: five\n</result>"
PYTHON = "<python>2+3</python> <result>\n5\n</result>"


def score(text: str, truth="5") -> float:
    return compute_score("any", text, truth)["score"]


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        (SEARCH + PYTHON + RIGHT, 1.1),
        (PYTHON + SEARCH + RIGHT, 1.1),
        ("<think>Look.</think>" + SEARCH + "<think>Add.</think>" + PYTHON + RIGHT, 1.1),
        (SEARCH + RIGHT, 1.0),
        (PYTHON + PYTHON + RIGHT, 1.0),
        (RIGHT, 1.0),
        ("<think>Easy.</think>" + RIGHT, 1.0),
        (SEARCH + PYTHON + WRONG, 0.0),
        (SEARCH + WRONG, 0.0),
        (WRONG, 0.0),
        (SEARCH + PYTHON + "<answer>5</answer>", -1.0),
        (SEARCH + PYTHON + "5", -1.0),
        (RIGHT + WRONG, -1.0),
    ],
)
def test_equation_8(text, reward):
    assert score(text) == pytest.approx(reward)


def test_the_parts_of_a_full_score_add_up():
    assert compute_score("any", SEARCH + PYTHON + RIGHT, "5", extra_info={"index": 1}, more=2) == {
        "score": 1.1,
        "acc": 1.0,
        "format": 1.0,
        "multi_tool_bonus": 0.1,
        "check_timeout": 0.0,
        "check_failed": 0.0,
        "reason": "correct",
    }


def test_the_bonus_is_paid_on_top_of_a_partly_right_answer():
    # "red cat" against "red dog": one common token of 2 + 2, F1 = 2 * 1 / 4 = 0.5.
    answer = r"<answer>\boxed{red cat}</answer>"
    assert score(SEARCH + PYTHON + answer, "red dog") == pytest.approx(0.6)
    assert compute_score("any", answer, "red dog")["reason"] == "partly correct"


def test_the_bonus_is_not_paid_for_a_wrong_answer():
    assert compute_score("any", SEARCH + PYTHON + WRONG, "5") == {
        "score": 0.0,
        "acc": 0.0,
        "format": 1.0,
        "multi_tool_bonus": 0.0,
        "check_timeout": 0.0,
        "check_failed": 0.0,
        "reason": "wrong",
    }


DEFECTS = [
    ("", "0 answers"),
    ("5", "0 answers"),
    (r"\boxed{5}", "0 answers"),
    (SEARCH, "0 answers"),
    (r"<Answer>\boxed{5}</Answer>", "0 answers"),
    (RIGHT + RIGHT, "2 answers"),
    (RIGHT + PYTHON + RIGHT, "2 answers"),
    (RIGHT + " so 5", "text after the answer"),
    (RIGHT + PYTHON, "text after the answer"),
    (RIGHT + "<|im_end|>", "text after the answer"),
    (RIGHT + " <result>\n" + RIGHT + "\n</result>", "text after the answer"),
    ("<answer>5</answer>", "no boxed answer"),
    (r"\boxed{5}<answer>5</answer>", "no boxed answer"),
    (r"<answer>\boxed{5</answer>", "no boxed answer"),
    (r"<answer>\boxed{\frac{1}{2}</answer>", "no boxed answer"),
    (r"<answer>\boxed</answer>", "no boxed answer"),
    (r"<answer>5 in a \boxed{</answer>", "no boxed answer"),
    (r"<answer>boxed{5}</answer>", "no boxed answer"),
    (r"<answer>\boxed{5}", "<answer> is not closed"),
    (r"\boxed{5}</answer>", "</answer> without <answer>"),
    (RIGHT + "</answer>", "</answer> without <answer>"),
    (rf"<think>{RIGHT}</think>", "<answer> inside <think>"),
    (r"<answer><think>no</think>\boxed{5}</answer>", "<think> inside <answer>"),
    ("<think><think></think></think>" + RIGHT, "<think> inside <think>"),
    ("<think><python>1</python></think>" + RIGHT, "a call of <python> inside <think> has no <result>"),
    (
        "<think>I could <search> for it.</think>" + RIGHT,
        "<search> is mentioned inside <think>, and no call of it with a <result> follows",
    ),
    (
        "<think>I could <search> for it.</think>" + PYTHON + RIGHT,
        "<search> is mentioned inside <think>, and no call of it with a <result> follows",
    ),
    ("<think>then </answer></think>" + RIGHT, "</answer> inside <think>"),
    ("<search>a<python>1</python></search>" + RIGHT, "<python> inside <search>"),
    ("<python>1<result>1</result></python>" + RIGHT, "<result> inside <python>"),
    ("<search>a</python>" + RIGHT, "</python> without <python>"),
    ("<think>a</think></search>" + RIGHT, "</search> without <search>"),
    ("<result>a</result>b</result>" + RIGHT, "<result> is not closed"),
    ("<result>\n" + RIGHT, "<result> is not closed"),
    ("<search>five" + RIGHT, "<answer> inside <search>"),
]


@pytest.mark.parametrize(("text", "defect"), DEFECTS)
def test_every_defect_of_format_costs_1_and_is_named(text, defect):
    assert compute_score("any", text, "5") == {
        "score": -1.0,
        "acc": 0.0,
        "format": 0.0,
        "multi_tool_bonus": 0.0,
        "check_timeout": 0.0,
        "check_failed": 0.0,
        "reason": defect,
    }


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_that_is_only_opened_or_only_closed_is_a_defect(tag):
    assert score(f"<{tag}>" + RIGHT) == -1
    assert compute_score("any", f"</{tag}>" + RIGHT, "5", response_prefix="")["score"] == -1


@pytest.mark.parametrize(
    "text",
    [
        "<think>hm</think>",
        "<python></python>",
        "<b>bold</b>",
        "< answer >",
        "<answer/>",
        "1 < 2 > 0",
        "<result>\n</result>",
    ],
)
def test_what_is_no_defect_is_none(text):
    assert format_defect(text + RIGHT + " \n") is None


@pytest.mark.parametrize("tag", [f"<{slash}{tag}>" for tag in TAGS for slash in ("", "/") if slash + tag != "/result"])
def test_tags_inside_a_result_are_ignored(tag):
    assert format_defect(f"<search>a</search> <result>\nPage 1: {tag}\n</result>{RIGHT}") is None


def test_an_answer_inside_a_result_is_not_an_answer():
    assert score(f"<result>\n{WRONG}\n</result>{RIGHT}") == 1.0
    assert score(f"<result>\n{RIGHT}\n</result>{WRONG}") == 0.0
    assert score(f"<result>\n{RIGHT}\n</result>") == -1.0


@pytest.mark.parametrize("text", ["</search>", "<search>a</search>"])
def test_a_tool_that_is_only_named_in_a_result_earns_no_bonus(text):
    assert score(f"<python>print('<' + '/search>')</python> <result>\n{text}\n</result>{RIGHT}") == 1.0


def test_a_result_that_quotes_the_end_of_a_result_is_not_the_models_fault():
    assert score(f"<search>tags</search> <result>\nA result ends with </result>, always.\n</result>{RIGHT}") == 1.0


@pytest.mark.parametrize("truths", [["4", "5"], ("4", "5"), numpy.array(["4", "5"]), [4, 5]])
def test_accepted_answers_may_be_any_sequence(truths):
    assert score(RIGHT, truths) == 1.0


def test_no_accepted_answer_is_never_right():
    assert score(RIGHT, []) == 0.0


@pytest.mark.parametrize("truth", [5, 5.0])
def test_a_number_as_ground_truth_is_as_good_as_its_text(truth):
    assert score(RIGHT, truth) == 1.0


@pytest.mark.parametrize("truth", [numpy.int64(5), numpy.float32(5), numpy.array(5), {"target": ["4", "5"]}])
def test_numpy_scalars_and_rows_of_search_r1_are_understood(truth):
    assert score(RIGHT, truth) == 1.0


@pytest.mark.parametrize("truth", [None, [None], {"answer": "5"}, [["5"]], b"5"])
def test_a_row_without_an_answer_is_refused(truth):
    with pytest.raises(ValueError, match="expected a text, a number or a list of them"):
        score(RIGHT, truth)


@pytest.mark.parametrize(
    ("truth", "answer"),
    [
        ('["34"]', "34"),
        ("['34', '43']", "43"),
        ('["New York", "NYC"]', "NYC"),
        (numpy.float32(0.1), "0.1"),
        (numpy.array([0.1, 0.2], dtype=numpy.float32), "0.2"),
        ([numpy.float64(0.5)], "1/2"),
        (1e-5, "0.00001"),
        (1e-5, "1e-5"),
        (1e22, "10000000000000000000000"),
        (numpy.array(["Paris", "Lutetia"]), "lutetia"),
        (numpy.array("Paris"), "Paris"),
        ({"target": numpy.array(["34"])}, "34"),
        ([4, "5", 6.0], "6"),
        ("[1, 2]", "[1, 2]"),
    ],
)
def test_accepted_answers_are_found_in_whatever_holds_them(truth, answer):
    assert compute_score("nq", rf"<answer>\boxed{{{answer}}}</answer>", truth)["score"] == 1.0


def test_an_interval_is_no_list_of_answers():
    assert compute_score("math500", r"<answer>\boxed{1}</answer>", "[1, 2]")["score"] == 0.0
    assert compute_score("math500", r"<answer>\boxed{[1,2]}</answer>", "[1, 2]")["score"] == 1.0


@pytest.mark.parametrize(
    "box",
    [
        r"\boxed{4}", r"\boxed {4}", "\\boxed\n{4}", r"\boxed 4", r"\boxed4", r"$\boxed 4$", r"\[ \boxed 4 \]",
        r"\(\boxed 4\).", r"\fbox{4}", r"\fbox {4}", r"\fbox 4", r"\framebox{4}", r"\boxed{\boxed{4}}",
        r"\boxed{3}, no: \boxed {4}", r"\boxed{3} then \fbox{4}", r"It is \boxed 4.", r"\boxed{4} is in the \boxed",
        r"\boxed{\text{4}}", r"\boxed{ 4 }", r"\boxed\frac82", r"\boxed~{4}", r"\boxed\ {4}", r"\boxed\,{4}",
        r"\boxed ~ 4", r"\boxed: 4", r"\boxed = 4", r"\fbox[2pt]{4}", r"\bbox[5px,border:2px solid red]{4}",
        r"\boxed(4)",
    ],
)  # fmt: skip
@pytest.mark.parametrize("source", ["nq", "math500"])
def test_a_box_may_be_written_in_many_ways(box, source):
    assert compute_score(source, f"<answer>{box}</answer>", "4")["score"] == 1.0


CALL_IN_THINK = "<think>I look. <search>q</search> <result>\nPage 1: five\n</result> It is five.</think>"


@pytest.mark.parametrize(
    "text",
    [
        CALL_IN_THINK,
        "<think>I look. <search>q</search></think> <result>\nfive\n</result>",
        "<think>I could <search> for it.</think>" + SEARCH,
        "<think>I could <search> or <python> it.</think>" + PYTHON + SEARCH,
        "<think>I <search> and <search>q</search> <result>\nfive\n</result></think>",
        "<think>I end a call by </search>, I think.</think>",
        "<think>The <result> will say.</think>",
        "<think>The <result> will say </result>.</think>" + SEARCH,
        "<think>I <python> it.</think><think>Now.</think>" + PYTHON,
        "<think><python>1</python> <result>\n<search>\n</result></think>",
        "<think>a <python>1</python>\n<result>\n</think><answer>\n</result> b</think>",
    ],
)
def test_a_call_or_a_mention_inside_a_think_is_read_as_leniently_as_the_released_code_reads_it(text):
    assert score(text + RIGHT) >= 1.0


def test_calls_inside_a_think_earn_the_bonus_and_mentions_do_not():
    assert score(CALL_IN_THINK + PYTHON + RIGHT) == pytest.approx(1.1)
    assert score("<think><python>1</python> <result>\n1\n</result></think>" + SEARCH + RIGHT) == pytest.approx(1.1)
    assert score("<think>I <python> it.</think>" + PYTHON + RIGHT) == 1.0
    assert score("<think>so </python> ends it</think>" + SEARCH + RIGHT) == 1.0


def test_text_may_be_compared_by_the_published_normalisation_of_squad():
    # SQuAD deletes punctuation: us of america against us; five common characters do not matter.
    answer = r"<answer>\boxed{-5}</answer>"
    assert compute_score("nq", answer, "5")["acc"] == 0.0
    assert compute_score("nq", answer, "5", text_comparison="squad")["acc"] == 1.0
    assert compute_score("nq", r"<answer>\boxed{F-16 jet}</answer>", "F16", text_comparison="squad")["acc"] == (
        pytest.approx(2 / 3)
    )
    assert compute_score("math500", answer, "5", text_comparison="squad")["acc"] == 0.0


def test_an_unknown_comparison_is_refused_by_name():
    with pytest.raises(ValueError, match="text_comparison='SQUAD'; expected one of default, squad"):
        compute_score("nq", RIGHT, "5", text_comparison="SQUAD")


@pytest.mark.parametrize(
    ("data_source", "extra_info", "expected"),
    [
        ("openai/gsm8k", None, True),
        ("gsm8k", {}, True),
        ("HuggingFaceH4/MATH-500", {"index": 1}, True),
        ("math500", None, True),
        ("math_dapo", None, True),
        ("aime24", None, True),
        ("aime_2025", None, True),
        ("numina_amc_aime", None, True),
        ("numina_aops_forum", None, True),
        ("numina_cn_k12", None, True),
        ("AI-MO/NuminaMath-CoT", None, True),
        ("minerva", None, True),
        ("TheoremQA", None, True),
        ("prm800k", None, True),
        ("ByteDance-Seed/BeyondAIME", None, True),
        ("nvidia/AceReason-Math", None, True),
        ("deepmind/aqua-rat", None, True),
        ("medqa", None, False),
        ("din0s/asqa", None, False),
        ("hmmt_feb_2025", None, True),
        ("MathArena/hmmt_nov_2025", None, True),
        ("brumo25", None, True),
        ("agentica-org/DeepScaleR-Preview-Dataset", None, True),
        ("deepscaler", None, True),
        ("orz", None, True),
        ("orz_57k", None, True),
        ("openr1", None, True),
        ("open-r1/OpenR1-Math-220k", None, True),
        ("dapo_17k", None, True),
        ("hiyouga/geometry3k", None, True),
        ("lighteval/MATH", None, True),
        ("forza", None, False),
        ("wizardorz", None, False),
        ("popqa", {"ability": "fact-reasoning"}, False),
        ("nq", {"ability": "Mathematics"}, True),
        ("AMC23", None, True),
        ("OlympiadBench", None, True),
        ("searchR1_hotpotqa", None, False),
        ("2wiki", None, False),
        ("musique", None, False),
        ("bamboogle", None, False),
        ("simpleqa", None, False),
        ("webwalker", None, False),
        ("gaia", None, False),
        ("hle", None, False),
        ("xbench", None, False),
        ("tiny_world", None, False),
        ("DR_grpo_mix", None, False),
        ("iamcurious", None, False),
        ("DR_grpo_mix", {"ability": "math"}, True),
        ("DR_grpo_mix", {"ability": "MATH"}, True),
        ("DR_grpo_mix", {"ability": "qa"}, False),
        ("gsm8k", {"ability": "qa"}, False),
        ("gsm8k", {"ability": None}, True),
    ],
)
def test_ability_chooses_the_comparison_or_else_the_data_source(data_source, extra_info, expected):
    assert is_mathematics(data_source, extra_info) is expected


def test_a_name_that_says_nothing_is_warned_of_once(caplog):
    for _ in range(3):
        assert is_mathematics("quarterly_reports_7") is False
        assert is_mathematics("quarterly_reports_8", {"ability": "reports"}) is False
        assert is_mathematics("hotpotqa") is False
        assert is_mathematics("quarterly_reports_9", {"ability": "qa"}) is False
    assert [record.getMessage()[:68] for record in caplog.records] == [
        "the answers of data_source='quarterly_reports_7' are compared as tex",
        "the answers of data_source='quarterly_reports_8' are compared as tex",
    ]


def test_mathematics_is_right_or_wrong_and_text_may_be_partly_right():
    answer = SEARCH + PYTHON + r"<answer>\boxed{\frac{1}{2}}</answer>"
    truth = r"\frac{1}{3}"
    assert compute_score("math500", answer, "0.5")["score"] == 1.1
    assert compute_score("math500", answer, truth)["score"] == 0.0
    assert compute_score("any", answer, "0.5")["acc"] == 1.0
    assert compute_score("any", answer, truth)["acc"] == 0.0
    # As text: 1/2, cup against 1/3, cup.
    cup = r"<answer>\boxed{\frac{1}{2} cup}</answer>"
    assert compute_score("any", cup, "1/3 cup")["acc"] == pytest.approx(1 / 2)
    assert compute_score("math500", answer, [truth, r"\frac24"])["reason"] == "correct"


def test_a_check_that_takes_too_long_is_counted():
    answer = r"<answer>\boxed{9^{9^{9}}}</answer>"
    assert compute_score("math500", answer, "5", check_timeout_seconds=0.5) == {
        "score": 0.0,
        "acc": 0.0,
        "format": 1.0,
        "multi_tool_bonus": 0.0,
        "check_timeout": 1.0,
        "check_failed": 0.0,
        "reason": "the check of the answer timed out",
    }


def test_an_answer_that_is_too_long_to_check_is_counted():
    parts = compute_score("math500", rf"<answer>\boxed{{{'x+' * 300}x}}</answer>", "5")
    assert parts["score"] == 0.0
    assert (parts["check_timeout"], parts["check_failed"]) == (0.0, 1.0)
    assert parts["reason"] == "the answer is too long to check"


def test_a_check_whose_worker_can_not_be_started_is_counted(monkeypatch):
    monkeypatch.setattr("sys.executable", "/no/python")
    monkeypatch.setattr("arpo_verl.reward.score._checker", MathChecker)
    parts = compute_score("math500", r"<answer>\boxed{x}</answer>", "5")
    assert (parts["score"], parts["check_failed"]) == (0.0, 1.0)
    assert parts["reason"] == "the check of the answer failed"


def test_plain_numbers_and_text_start_no_process():
    code = r"""
from arpo_verl.reward import compute_score, score
for source, truth in [("tiny_world", "5"), ("math500", "5"), ("math500", "6"), ("any", r"\frac12"), ("any", "Paris")]:
    compute_score(source, r"<answer>\boxed{5}</answer>", truth)
assert score._checker()._fork_server is None
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("kwargs", [{}, {"reward_kwargs": {"check_timeout_seconds": 2}}])
@pytest.mark.parametrize("name", ["compute_score", "compute_reference_score"])
@pytest.mark.slow
def test_verl_finds_the_reward_functions_and_hands_over_its_keywords(name, kwargs):
    from omegaconf import OmegaConf
    from verl.trainer.ppo.reward import get_custom_reward_fn

    chosen = {"path": "pkg://arpo_verl.reward", "name": name, **kwargs}
    function = get_custom_reward_fn(OmegaConf.create({"reward": {"custom_reward_function": chosen}}))
    parts = function(
        data_source="math500",
        solution_str="<think>hm</think>" + RIGHT,
        ground_truth="5",
        extra_info={"index": 1},
        reward_router_address="localhost",
    )
    assert parts["score"] == 1.0


# Text that is likelier to be nearly right than random characters are.
PIECES = [f"<{slash}{tag}>" for tag in TAGS for slash in ("", "/")]
RESPONSES = st.lists(
    st.sampled_from([*PIECES, r"\boxed{", "}", "{", "5", "-1/2", " ", "\n", "the", SEARCH, PYTHON, RIGHT, WRONG])
    | st.text()
).map("".join)


@given(RESPONSES, st.text() | st.lists(st.text()) | st.sampled_from(["5", "1/2", "", "the"]))
@example(r"<answer>\boxed{\ud800٣½²}</answer>", "٣")
@settings(deadline=None)
def test_any_text_scores_minus_1_or_from_0_to_1_1(text, truth):
    result = compute_score("any", text, truth)
    assert result["score"] == -1 or 0 <= result["score"] <= 1.1
    assert (result["score"] == -1) == (result["format"] == 0) == (format_defect(text) is not None)
    assert 0 <= result["acc"] <= 1
    assert result["multi_tool_bonus"] in (0, 0.1)
    assert result["reason"]


@given(st.text(st.characters(exclude_characters="{}")), st.lists(st.text(), max_size=3))
@settings(deadline=None)
def test_any_good_format_scores_at_least_0_and_the_tools_add_a_tenth_at_most(answer, truths):
    text = rf"<answer>\boxed{{{answer}}}</answer>"
    if format_defect(text) is None:
        without, with_tools = score(text, truths), score(SEARCH + PYTHON + text, truths)
        assert with_tools == pytest.approx(without + 0.1 if without > 0 else 0)
