r"""Which mathematical answers are judged equal: pairs judged by hand, what is missed among them."""

import contextlib
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arpo_verl.reward.math_check import MathChecker, MathCheckResult
from arpo_verl.reward.math_text import decide, tidy


@pytest.fixture(scope="module")
def checker() -> Iterator[MathChecker]:
    with contextlib.closing(MathChecker(workers=1)) as checker:
        yield checker


EQUAL = [
    # fractions, decimals, percentages
    (r"\frac12", "0.5"),
    (r"\dfrac{1}{2}", r"\frac{1}{2}"),
    (r"\tfrac{1920}{10395}", r"\frac{128}{693}"),
    (r"1\frac12", "1.5"),
    ("0.333333", r"\frac13"),
    ("0.333333", "1/3"),
    ("2.0", "2"),
    ("11.9999999999", "12"),
    (r"50\%", "0.5"),
    (r"50\%", "50"),
    ("0.12", r"12\%"),
    ("12%", r"12\%"),
    # large numbers
    ("1,000", "1000"),
    (r"1{,}000", "1000"),
    (r"10^{3}", "1000"),
    ("1.5e3", "1500"),
    (r"1.5\times 10^3", "1500"),
    ("778556334111889667445223", "778,556,334,111,889,667,445,223"),
    # roots, constants, functions, combinatorics
    (r"2\sqrt{3}", r"\sqrt{12}"),
    (r"\frac{1}{\sqrt2}", r"\frac{\sqrt2}{2}"),
    (r"3\sqrt{3} - 6", r"-6+3\sqrt3"),
    (r"\frac{\pi}{2}", r"\pi/2"),
    (r"\log_2 8", "3"),
    (r"\binom{5}{2}", "10"),
    ("3!", "6"),
    (r"\sqrt{2}", "1.41421356"),
    # as Python prints them
    ("3*sqrt(3) - 6", r"3\sqrt{3} - 6"),
    ("2*pi", r"2\pi"),
    ("pi/4", r"\frac{\pi}{4}"),
    ("x**2 + 1", "x^2+1"),
    ("sin(x)", r"\sin x"),
    # polynomials and equations
    (r"(x+1)^2", "x^2+2x+1"),
    (r"\frac{1}{2}x", "x/2"),
    (r"\sqrt{n(2n^2+1)/3}", r"\sqrt{\frac{n(2n^2+1)}{3}}"),
    ("x=12", "12"),
    ("12", "x=12"),
    ("y=2x+1", "y=1+2x"),
    ("a=1,b=2", "b=2,a=1"),
    # sets, intervals, tuples, matrices
    (r"\{3,2,1\}", r"\{1,2,3\}"),
    ("1,2,7,8", r"\{1, 2, 7, 8\}"),
    ("2,-2", r"\pm 2"),
    ("1 and 2", "2,1"),
    (r"(4,\infty)\cup(-\infty,-4)", r"(-\infty,-4)\cup (4,\infty)"),
    (r"x\le 2", r"(-\infty,2]"),
    (r"(-\infty,2]", r"x\le 2"),
    (r"x \le 2", r"2 \ge x"),
    ("1<x<2", "(1,2)"),
    (r"\left(\frac12, 3\right)", "(0.5,3)"),
    (r"\begin{pmatrix}1&0\\0&1\end{pmatrix}", r"\begin{bmatrix}1&0\\0&1\end{bmatrix}"),
    (r"x \in \{1,2\}", r"\{1,2\}"),
    # units, degrees, money, words
    (r"12\text{ cm}", "12"),
    (r"120^\circ", "120"),
    (r"\$5", "5"),
    ("The answer is 12", "12"),
    (r"\text{east}", "East"),
    (r"\textbf{(C)}", "C"),
    ("B.", "B"),
    ("No", "no"),
    # around the answer
    ("$5$", "5"),
    (" 5. ", "5"),
    (r"\text{(-1,0)}", "(-1,0)"),
    ("\N{MINUS SIGN}5", "-5"),
    ("(37", "(37"),  # no mathematics, but the same text; from the paper's training data
]
DIFFERENT = [
    ("-5", "5"),
    ("3.14", "314"),
    ("1/2", "12"),
    ("2^3", "23"),
    ("x+1", "x-1"),
    ("[0,1)", "(0,1)"),
    ("(1,2)", "(2,1)"),
    ("[1, 2]", "(1,2)"),
    ("1/3", "0.33"),
    ("0.6667", r"\frac23"),
    ("3.14", r"\pi"),
    ("1.414", r"\sqrt2"),
    ("11.9", "12"),
    (r"5\%", r"0.5\%"),
    (r"5\%", "0.5"),
    ("x<2", r"x\le 2"),
    ("x^2+1", "y^2+1"),
    ("-x", "x"),
    (r"-\infty", r"\infty"),
    ("x**2 + 1", "1"),
    ("k=5", "x=5"),
    ("13 or 12", "12"),
    ("12 or 13", "12"),
    (r"\{1,2\}", r"\{1,2,3\}"),
    ("A", "B"),
    ("east", "seat"),
    ("odd", "even"),
    ("twelve apples", "12"),
    ("", "5"),
    ("5", ""),
    ("", ""),
    ("$", "5"),
    ("I don't know", "5"),
    (r"0.\overline{3}", "0"),
    ("Any of 3, 4 and 5", "5"),
    ("10 m", "10 cm"),
    ("5 or 5", "5"),
    ("1 1/2", "1"),
    ("1010_2", "1010_3"),
]
MISSED = [
    ("x^2=4", r"x=\pm 2"),
    (r"1,2,\ldots,10", "1,2,3,4,5,6,7,8,9,10"),
]
TOO_KIND = [
    # The base may be left out.
    ("1010_2", "1010"),
]


@pytest.mark.parametrize(("prediction", "truth"), EQUAL)
def test_these_are_equal(checker, prediction, truth):
    assert checker.check(prediction, [truth]) is MathCheckResult.EQUAL


@pytest.mark.parametrize(("prediction", "truth"), DIFFERENT)
def test_these_are_different(checker, prediction, truth):
    assert checker.check(prediction, [truth]) is MathCheckResult.DIFFERENT


@pytest.mark.parametrize(("prediction", "truth"), MISSED)
def test_these_are_equal_but_known_to_be_missed(checker, prediction, truth):
    assert checker.check(prediction, [truth]) is MathCheckResult.DIFFERENT


@pytest.mark.parametrize(("prediction", "truth"), TOO_KIND)
def test_these_are_different_but_known_to_be_accepted(checker, prediction, truth):
    assert checker.check(prediction, [truth]) is MathCheckResult.EQUAL


def test_one_of_several_accepted_answers_is_enough(checker):
    assert checker.check(r"\frac12", ["7", "x", "0.5"]) is MathCheckResult.EQUAL
    assert checker.check(r"\frac12", ["7", "x", "0.6"]) is MathCheckResult.DIFFERENT
    assert checker.check("5", []) is MathCheckResult.DIFFERENT


def test_a_hostile_prediction_is_only_read(checker):
    # Sympy's parser evaluates what it is given as Python.
    for text in ["__import__('os').abort()", "(lambda: 1/0)()", "1 + __import__('os').abort()"]:
        assert checker.check(text, ["1"]) is MathCheckResult.DIFFERENT
    assert checker.check("\ud800", ["1"]) is MathCheckResult.DIFFERENT
    assert checker.check("1\n\x00}{$$\\", ["1"]) is MathCheckResult.DIFFERENT


@given(st.fractions(), st.fractions())
@settings(deadline=None)
def test_plain_numbers_are_decided_by_value_without_a_worker(one, other):
    assert decide(str(one), str(one)) is True
    assert decide(str(one), str(other)) is (one == other)


@given(st.text(), st.text())
@settings(deadline=None)
def test_any_text_equals_itself_and_the_order_does_not_matter(one, other):
    one, other = tidy(one), tidy(other)
    assert decide(one, one) is (True if one else None)
    assert decide(one, other) is decide(other, one)


@given(st.integers(-999_999, 999_999), st.integers(-999_999, 999_999))
@settings(deadline=None)
def test_decimals_agree_to_six_places(one, other):
    # Truths above 1, for which the precision is absolute.
    assert decide(f"{one / 1000}", f"{other / 1000}") is (one == other)
    assert decide(f"{one / 1000 + 4e-7:.7f}", f"{one / 1000:.3f}") is (abs(one) >= 400)


@pytest.mark.parametrize("answer", ["1" * 5000 + "e5", "1" + " " * 100_000 + "x", "9" * 5000, "%" * 5000])
def test_a_long_answer_is_neither_an_error_nor_a_long_wait(checker, answer):
    start = time.monotonic()
    assert checker.check(answer, ["5"]) is MathCheckResult.TOO_LONG
    assert checker.check(answer, [answer]) is MathCheckResult.EQUAL
    assert decide(answer[:400], "5") is not True
    assert time.monotonic() - start < 1.0
