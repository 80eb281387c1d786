"""The answer in a response, and its comparison as text: numbers by value, words by F1, Chinese by characters."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arpo_verl.reward import compute_score
from arpo_verl.reward.answer import extract_boxed
from arpo_verl.reward.published import released_f1
from arpo_verl.reward.text_match import exact_match, token_f1


def acc(prediction: str, truth) -> float:
    return compute_score("any", rf"<answer>\boxed{{{prediction}}}</answer>", truth)["acc"]


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
    assert acc(prediction, "5") == 0.0


@pytest.mark.parametrize(("prediction", "truth"), [("1,2", "12"), ("12", "1,2"), ("1,,0", "10")])
def test_commas_that_do_not_group_thousands_are_not_part_of_a_number(prediction, truth):
    assert acc(prediction, truth) < 1.0


@pytest.mark.parametrize(("prediction", "truth"), [("-5 m", "5 m"), ("$5", "-$5"), ("1/2 cup", "1.2 cup")])
def test_the_signs_of_a_number_with_a_unit_count(prediction, truth):
    assert acc(prediction, truth) < 1.0


@given(st.fractions(), st.fractions())
@settings(deadline=None)
def test_fractions_agree_exactly_if_they_are_equal(one, other):
    assert token_f1(str(one), [str(one)]) == 1.0
    assert token_f1(str(one), [str(other)]) == float(one == other)


@given(st.integers())
@settings(deadline=None)
def test_thousands_separators_do_not_matter(number):
    assert token_f1(f"{number:,}", [str(number)]) == token_f1(str(number), [f"{number:,}"]) == 1.0


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


@given(st.lists(st.sampled_from(["abc", "the", "red"]), max_size=6), st.lists(st.sampled_from(["abc", "the", "red"])))
@settings(deadline=None)
def test_agreement_of_text_is_symmetric_and_does_not_depend_on_order(prediction, truth):
    forward = token_f1(" ".join(prediction), [" ".join(truth)])
    assert forward == token_f1(" ".join(truth), [" ".join(prediction)])
    assert forward == token_f1(" ".join(reversed(prediction)), [" ".join(sorted(truth))])


@pytest.mark.parametrize(
    ("prediction", "truth", "f1"),
    [
        ("北京", "北京", 1.0),
        ("中国北京", "北京", 2 * 2 / (4 + 2)),
        ("北京市", "北京", 2 * 2 / (3 + 2)),
        ("上海", "北京", 0.0),
        ("《甄嬛传》", "甄嬛传", 1.0),
        ("北京，上海。", "北京 上海", 1.0),
        ("2008年8月8日", "2008 年 8 月 8 日", 1.0),
        ("增长-5%", "增长5%", 2 * 3 / (4 + 4)),
        ("约3.14米", "约314米", 2 * 2 / (3 + 3)),
        ("iPhone手机", "iphone 手机", 1.0),
        ("ジョン・スミス", "ジョンスミス", 1.0),
        ("東京タワー", "タワー", 2 * 3 / (5 + 3)),
        ("서울", "서울시", 0.0),  # Korean has spaces between words
    ],
)
def test_chinese_and_japanese_agree_by_characters(prediction, truth, f1):
    assert token_f1(prediction, [truth]) == pytest.approx(f1)
    assert token_f1(truth, [prediction]) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("prediction", "truths"),
    [
        ("Paris", ["Paris"]),
        ("the Eiffel Tower!", ["London", "Eiffel tower"]),
        ("1,000.0", ["1000"]),
        ("\N{MINUS SIGN}5", ["-5"]),
        ("《北京》", ["北京"]),
    ],
)
def test_an_exact_match_says_the_same_as_one_of_the_answers(prediction, truths):
    assert exact_match(prediction, truths) == token_f1(prediction, truths) == 1.0


@pytest.mark.parametrize(
    ("prediction", "truths"),
    [
        ("Paris, France", ["Paris", "France"]),
        ("red blue", ["blue red"]),  # F1 doesn't see the order
        ("-5", ["5"]),
        ("5 apples", ["5"]),
        ("京北", ["北京"]),
        ("", ["Paris"]),
        ("Paris", []),
    ],
)
def test_an_exact_match_is_all_or_nothing(prediction, truths):
    assert exact_match(prediction, truths) == 0.0


@given(st.text(), st.lists(st.text()))
@settings(deadline=None)
def test_an_exact_match_has_full_f1(prediction, truths):
    for f1 in (token_f1(prediction, truths), released_f1(prediction, truths)):
        assert 0 <= f1 <= 1
    assert exact_match(prediction, truths) in (0, 1)
    assert exact_match(prediction, truths) <= token_f1(prediction, truths)
    assert exact_match(prediction, [*truths, prediction]) == 1


@pytest.mark.parametrize(
    ("prediction", "truth", "f1"),
    [
        # Its defect: what is left of a number without its punctuation.
        ("-5", "5", 1.0),
        ("3.14", "314", 1.0),
        ("1/2", "12", 1.0),
        ("2^3", "23", 1.0),
        ("x+1", "x-1", 1.0),
        ("[0,1)", "(0,1)", 1.0),
        ("1.5", "15", 1.0),
        (r"10\%", "10", 1.0),
        ("5.0", "5", 0.0),
        ("0.5", r"\frac12", 0.0),
        ("中国北京", "北京", 0.0),
        # SQuAD's metric: 2 * common tokens / (tokens of the prediction + tokens of the truth).
        ("not Paris", "Paris", 2 * 1 / (2 + 1)),
        ("13 or 12", "12", 2 * 1 / (3 + 1)),
        ("The Paris", "paris", 1.0),
        ("New-York", "New York", 0.0),
        ("“Paris”", "Paris", 0.0),  # only ASCII punctuation is deleted
        ("", "Paris", 0.0),
        ("the", "A", 0.0),
        # Yes and no are compared as a whole.
        ("Yes.", "yes", 1.0),
        ("yes, Paris", "yes", 0.0),
        ("no", "no one", 0.0),
        ("no answer", "noanswer", 0.0),
    ],
)
def test_the_released_f1_has_the_released_defects(prediction, truth, f1):
    assert released_f1(prediction, [truth]) == pytest.approx(f1)
    assert released_f1(prediction, ["something else", truth]) == pytest.approx(f1)


@pytest.mark.parametrize(("answer", "truth"), [(">", "<"), ("≥", "≤"), ("+", "-"), ("", ">")])
def test_answers_of_signs_alone_are_compared_as_they_are(answer, truth):
    assert exact_match(answer, [truth]) == token_f1(answer, [truth]) == 0.0
    assert exact_match(f" {truth}", [truth]) == token_f1(truth, [truth]) == 1.0


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{\left\{1\right.}", r"\left\{1\right."),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{a \\}", r"a \\"),
        (r"\boxed{a\}", None),
    ],
)
def test_an_escaped_brace_opens_and_closes_nothing(text, content):
    assert extract_boxed(text) == content
