r"""The reward of arXiv 2507.19849, equation 8: its table, every defect of format, and the comparison of answers."""

import numpy
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from arpo_verl.reward import compute_score
from arpo_verl.reward.answer import accuracy, extract_boxed
from arpo_verl.reward.score import TAGS, format_defect

RIGHT = r"<answer>\boxed{5}</answer>"
WRONG = r"<answer>\boxed{6}</answer>"
SEARCH = "<search>two plus three</search> <result>\nPage 1: five\n</result>"
PYTHON = "<python>2+3</python> <result>\n5\n</result>"


def score(text: str, truth="5") -> float:
    return compute_score("any", text, truth)["score"]


def acc(prediction: str, truth) -> float:
    return compute_score("any", rf"<answer>\boxed{{{prediction}}}</answer>", truth)["acc"]


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
    (r"<answer>\boxed 5</answer>", "no boxed answer"),
    (r"<answer>boxed{5}</answer>", "no boxed answer"),
    (r"<answer>\boxed{5}", "<answer> is not closed"),
    (r"\boxed{5}</answer>", "</answer> without <answer>"),
    (RIGHT + "</answer>", "</answer> without <answer>"),
    (rf"<think>{RIGHT}</think>", "<answer> inside <think>"),
    (r"<answer><think>no</think>\boxed{5}</answer>", "<think> inside <answer>"),
    ("<think><think></think></think>" + RIGHT, "<think> inside <think>"),
    ("<think><python>1</python></think>" + RIGHT, "<python> inside <think>"),
    ("<search>a<python>1</python></search>" + RIGHT, "<python> inside <search>"),
    ("<python>1<result>1</result></python>" + RIGHT, "<result> inside <python>"),
    ("<search>a</python>" + RIGHT, "</python> without <python>"),
    ("<think>a</search></think>" + RIGHT, "</search> without <search>"),
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
        "reason": defect,
    }


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_that_is_only_opened_or_only_closed_is_a_defect(tag):
    assert score(f"<{tag}>" + RIGHT) == -1
    assert score(f"</{tag}>" + RIGHT) == -1


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


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{5}", "5"),
        (r"so \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{a{b{c}d}e} and {f}", "a{b{c}d}e"),
        (r"\boxed{}", ""),
        (r"\boxed{1} or \boxed{2}", "2"),
        (r"\boxed{1 \boxed{2} 3}", "2"),
        (r"\boxed{1} or \boxed{2", None),
        (r"\boxed{{5}", None),
        ("5", None),
        ("", None),
    ],
)
def test_the_last_box_with_balanced_braces_is_the_answer(text, content):
    assert extract_boxed(text) == content


@given(st.recursive(st.text(st.characters(exclude_characters="{}\\")), lambda inner: inner.map("{{{}}}".format)))
@settings(deadline=None)
def test_a_box_gives_back_any_balanced_text(content):
    assert extract_boxed(rf"\boxed{{0}} then \boxed{{{content}}}}}") == content


def test_braces_may_be_nested_in_an_answer():
    assert acc(r"\frac{1}{2}", r"\frac{1}{2}") == 1.0


@pytest.mark.parametrize(
    ("prediction", "truth"),
    [
        ("5", "5"),
        (" 5\n", "5"),
        ("5", " 5 "),
        ("+5", "5"),
        ("5.", "5"),
        ("5.0", "5"),
        ("05", "5"),
        ("-0", "0"),
        (".5", "0.5"),
        ("1/2", "0.5"),
        ("0.5", "1/2"),
        ("2/4", "1/2"),
        ("-1/2", "-.5"),
        ("1,000", "1000"),
        ("1000", "1,000"),
        ("1,234,567.5", "1234567.5"),
        ("0.1", "1/10"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
    ],
)
def test_equal_numbers_agree(prediction, truth):
    assert acc(prediction, truth) == 1.0


@pytest.mark.parametrize(
    ("prediction", "truth"),
    [
        ("-5", "5"),
        ("5", "-5"),
        ("3.14", "314"),
        ("314", "3.14"),
        ("1/2", "12"),
        ("1/2", "1"),
        ("1/3", "0.3333"),
        ("1/0", "1"),
        ("123456789012345678901234567891", "123456789012345678901234567890"),
        ("5 apples", "5"),
        ("5%", "5"),
        ("five", "5"),
        ("x=5", "5"),
        ("", "5"),
        (".", "0"),
    ],
)
def test_different_numbers_do_not_agree_at_all(prediction, truth):
    assert acc(prediction, truth) == 0.0


@pytest.mark.parametrize("prediction", ["9" * 5000, "0." + "9" * 5000, "1/" + "9" * 5000])
def test_a_number_with_thousands_of_digits_is_just_wrong(prediction):
    assert score(rf"<answer>\boxed{{{prediction}}}</answer>") == 0.0


@pytest.mark.parametrize(("prediction", "truth"), [("1,2", "12"), ("12", "1,2"), ("1,,0", "10")])
def test_commas_that_do_not_group_thousands_are_not_part_of_a_number(prediction, truth):
    assert acc(prediction, truth) < 1.0


@pytest.mark.parametrize(("prediction", "truth"), [("-5 m", "5 m"), ("$5", "-$5"), ("1/2 cup", "1.2 cup")])
def test_the_signs_of_a_number_with_a_unit_count(prediction, truth):
    assert acc(prediction, truth) < 1.0


@given(st.fractions(), st.fractions())
@settings(deadline=None)
def test_fractions_agree_exactly_if_they_are_equal(one, other):
    assert accuracy(str(one), [str(one)]) == 1.0
    assert accuracy(str(one), [str(other)]) == float(one == other)


@given(st.integers())
@settings(deadline=None)
def test_thousands_separators_do_not_matter(number):
    assert accuracy(f"{number:,}", [str(number)]) == accuracy(str(number), [f"{number:,}"]) == 1.0


@pytest.mark.parametrize(
    ("prediction", "truth", "f1"),
    [
        # 2 * common tokens / (tokens of the prediction + tokens of the truth)
        ("Paris", "Paris", 1.0),
        ("Paris France", "Paris", 2 * 1 / (2 + 1)),
        ("Paris", "Paris France", 2 * 1 / (1 + 2)),
        ("red green blue", "red green black white", 2 * 2 / (3 + 4)),
        ("blue red", "red blue", 1.0),
        ("no no no", "no", 2 * 1 / (3 + 1)),
        ("no no", "no yes no", 2 * 2 / (2 + 3)),
        ("London", "Paris", 0.0),
        ("", "Paris", 0.0),
        ("5", "5 apples", 2 * 1 / (1 + 2)),
    ],
)
def test_text_agrees_by_token_f1(prediction, truth, f1):
    assert acc(prediction, truth) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("prediction", "truth"),
    [
        ("the Eiffel Tower", "Eiffel tower"),
        ("A cat and an owl", "cat and owl"),
        ("PARIS!", "paris"),
        ("  Paris,\nFrance ", "Paris France"),
        ("New-York", "New York"),
        ("“Paris”", "“paris”"),
        ("CAFÉ", "café"),
    ],
)
def test_case_articles_punctuation_and_white_space_do_not_matter(prediction, truth):
    assert acc(prediction, truth) == 1.0


@pytest.mark.parametrize(("prediction", "truth"), [("theory", "ory"), ("banana", "bnn"), ("Anna", "na")])
def test_only_whole_words_are_articles(prediction, truth):
    assert acc(prediction, truth) == 0.0


@pytest.mark.parametrize("prediction", ["", "?", "the"])
def test_an_answer_without_words_is_not_the_letter_a(prediction):
    assert acc(prediction, "A") == 0.0


def test_the_best_of_several_accepted_answers_counts():
    # Against "red", "red dog": F1 of "red cat" is 2 * 1 / (2 + 1) and 2 * 1 / (2 + 2).
    assert acc("red cat", ["red", "red dog", "blue"]) == pytest.approx(2 / 3)
    assert acc("red cat", ["red dog", "Red Cat"]) == 1.0
    assert acc("0.5", ["half", "1/2"]) == 1.0
    assert acc("5", ["6", "7"]) == 0.0


@pytest.mark.parametrize("truths", [["4", "5"], ("4", "5"), numpy.array(["4", "5"]), [4, 5]])
def test_accepted_answers_may_be_any_sequence(truths):
    assert score(RIGHT, truths) == 1.0


def test_no_accepted_answer_is_never_right():
    assert score(RIGHT, []) == 0.0


@pytest.mark.parametrize("truth", [5, 5.0])
def test_a_number_as_ground_truth_is_as_good_as_its_text(truth):
    assert score(RIGHT, truth) == 1.0


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


@given(st.lists(st.sampled_from(["abc", "the", "red"]), max_size=6), st.lists(st.sampled_from(["abc", "the", "red"])))
@settings(deadline=None)
def test_agreement_of_text_is_symmetric_and_does_not_depend_on_order(prediction, truth):
    forward = accuracy(" ".join(prediction), [" ".join(truth)])
    assert forward == accuracy(" ".join(truth), [" ".join(prediction)])
    assert forward == accuracy(" ".join(reversed(prediction)), [" ".join(sorted(truth))])
