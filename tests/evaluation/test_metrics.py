"""The metrics of an evaluation, against numbers worked out by hand and against brute force."""

import itertools
import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arpo_verl.evaluation.prediction import prediction_of, votes_of
from arpo_verl.evaluation.score.measures import measures_of, quasi_exact_match
from arpo_verl.evaluation.score.metrics import best_at_k, majority, mean_over_prompts, subset_sizes


@pytest.mark.parametrize(
    ("samples", "correct", "k", "expected"),
    [
        (5, 2, 1, 0.4),
        (5, 2, 2, 0.7),  # 1 - 3/10
        (5, 2, 3, 0.9),  # 1 - 1/10
        (5, 2, 4, 1.0),
        (5, 0, 3, 0.0),
        (4, 1, 2, 0.5),  # 1 - 3/6
        (10, 3, 5, 11 / 12),  # 1 - C(7,5)/C(10,5) = 1 - 21/252
        (1, 1, 1, 1.0),
    ],
)
def test_pass_at_k_is_what_one_works_out_by_hand(samples, correct, k, expected):
    values = [1.0] * correct + [0.0] * (samples - correct)
    assert best_at_k(values, k) == pytest.approx(expected, abs=1e-15)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.data())
def test_the_best_of_k_is_its_mean_over_all_subsets(values, data):
    k = data.draw(st.integers(1, len(values)))
    everything = [max(subset) for subset in itertools.combinations(values, k)]
    assert best_at_k(values, k) == pytest.approx(statistics.fmean(everything), abs=1e-12)


@settings(deadline=None)
@given(st.integers(1, 12), st.data())
def test_pass_at_k_is_the_formula_of_the_paper(samples, data):
    correct = data.draw(st.integers(0, samples))
    k = data.draw(st.integers(1, samples))
    values = data.draw(st.permutations([1.0] * correct + [0.0] * (samples - correct)))
    formula = 1 - math.comb(samples - correct, k) / math.comb(samples, k)
    assert best_at_k(values, k) == pytest.approx(formula, abs=1e-12)


def test_pass_at_k_of_thousands_of_samples_does_not_overflow():
    assert best_at_k([1.0] + [0.0] * 4999, 2500) == pytest.approx(0.5)


@pytest.mark.parametrize("k", [0, 3])
def test_k_beyond_the_samples_is_refused(k):
    with pytest.raises(ValueError, match="2 samples; expected 1 to 2"):
        best_at_k([1.0, 0.0], k)


@pytest.mark.parametrize(
    ("samples", "expected"), [(1, [1]), (2, [1, 2]), (5, [1, 2, 4, 5]), (8, [1, 2, 4, 8]), (10, [1, 2, 4, 8, 10])]
)
def test_k_goes_by_powers_of_two_up_to_the_samples(samples, expected):
    assert subset_sizes(samples) == expected


def test_the_commonest_answer_counts():
    assert majority(["a", "b", "a"], [0.0, 1.0, 0.0]) == 0.0
    assert majority(["a", "b", "b"], [0.0, 1.0, 1.0]) == 1.0


def test_answers_that_are_equally_common_share_the_vote_in_any_order():
    for order in itertools.permutations([("a", 1.0), ("a", 1.0), ("b", 0.0), ("b", 0.0), ("c", 1.0)]):
        votes, values = zip(*order, strict=True)
        assert majority(votes, values) == 0.5


def test_samples_without_an_answer_do_not_vote():
    assert majority([None, None, "a"], [0.0, 0.0, 1.0]) == 1.0
    assert majority([None, None], [0.0, 0.0]) == 0.0


def test_the_standard_error_is_that_of_prompts():
    # Means 1, 0.5, 0: deviations ±0.5 and 0, s² = 0.5/2 = 0.25, so s/√3 = 0.5/√3.
    estimate = mean_over_prompts([1.0, 0.5, 0.0])
    assert estimate.mean == 0.5
    assert estimate.standard_error == pytest.approx(0.5 / math.sqrt(3))
    assert estimate.prompts == 3


def test_one_prompt_has_no_standard_error():
    assert mean_over_prompts([0.25]).standard_error is None


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=3, max_size=3), min_size=2, max_size=6))
def test_the_standard_error_is_the_cluster_robust_one(prompts):
    total = [value for prompt in prompts for value in prompt]
    mean = statistics.fmean(total)
    clusters = sum(sum(value - mean for value in prompt) ** 2 for prompt in prompts) / len(total) ** 2
    robust = math.sqrt(clusters * len(prompts) / (len(prompts) - 1))
    assert mean_over_prompts([statistics.fmean(prompt) for prompt in prompts]).standard_error == pytest.approx(robust)


@pytest.mark.parametrize(
    ("prediction", "truth", "expected"),
    [
        ("17", "17", 1),
        ("17.0", "17", 1),
        ("$17,000", "17000", 1),
        ("12%", "12", 1),
        ("1e3", "1000", 1),
        ("17 apples", "17", 0),
        ("seventeen", "17", 0),
        ("-5", "5", 0),
        ("3.14", "314", 0),
        ("", "0", 0),
        ("red, blue", "red, blue", 1),
        ("Red,Blue", "red; blue", 1),
        ("blue, red", "red, blue", 0),  # the order counts
        ("red", "red, blue", 0),
        ("red, blue, green", "red, blue", 0),
        ("3, $4, pears", "3,4,pears", 1),
        ("3, four", "3, 4", 0),
        ("St. Ives, Bath", "St Ives, Bath", 0),  # punctuation counts within lists
        ("1,234", "1234", 1),
        ("1234", "1,234", 0),  # a truth with a comma is a list
        ("sea gull", "Seagull", 1),
        ("St. Petersburg!", "st petersburg", 1),
        ("the gull", "gull", 0),  # articles count
        ("Zürich", "zürich", 1),
        ("anything", "inf", 0),  # the official scorer takes what is no number for infinity
        ("INF", "inf", 1),
        ("nan", "NaN", 1),
    ],
)
def test_gaia_compares_as_its_official_scorer(prediction, truth, expected):
    assert quasi_exact_match(prediction, [truth]) == expected


def test_gaia_takes_any_of_several_truths():
    assert quasi_exact_match("Rome", ["Paris", "rome"]) == 1
    assert quasi_exact_match("Rome", []) == 0


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (r"<answer>\boxed{42}</answer>", "42"),
        (r"<answer>first \boxed{1}, then \boxed{\frac{1}{2}}</answer>", r"\frac{1}{2}"),
        ("<answer> Paris </answer>", "Paris"),
        (r"<answer>\boxed{1}</answer> no: <answer>\boxed{2}</answer>", "2"),
        (r"<answer>\boxed{\text{New York}}</answer>", "New York"),
        (r"<answer>\boxed{unclosed</answer>", r"\boxed{unclosed"),
        (r"\boxed{42}", None),
        (r"<answer>\boxed{42}", None),
        ("</answer>", None),
        ("<answer>  </answer>", None),
        (r"<answer>\boxed{}</answer>", None),
        ("", None),
        # What a tool returns is not the model's answer.
        ("<search>q</search> <result>\n<answer>Rome</answer>\n</result>", None),
        ("<search>q</search> <result>\n<answer>Rome</answer>", None),
        ("<result>\n<answer>Rome</answer>\n</result> so <answer>Paris</answer>", "Paris"),
        ("<tool_response>\n<answer>Rome</answer>\n</tool_response>\n<answer>Paris</answer>", "Paris"),
        ("<result>\n</result> in a line\n</result><answer>Paris</answer>", "Paris"),
    ],
)
def test_the_prediction_is_the_last_box_of_the_last_answer(output, expected):
    assert prediction_of(output) == expected


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("1,000", "1000.0", True),
        ("0.5", "1/2", True),
        ("$5", "5", True),
        ("New York", "new  york", True),
        ("-5", "5", False),
        ("1,00", "100", False),
        (r"\frac{1}{2}", "0.5", True),
        (r"\text{New York}", "new york", True),
        ("U.S.", "US", True),
        ("1 1/2", "11/2", False),
        ("3 4", "34", False),
        ("R", "S", False),
    ],
)
def test_equal_answers_share_a_vote(one, other, is_same):
    votes = votes_of([one, None, other])
    assert votes == [one, None, one if is_same else other]


def test_half_is_one_vote_however_it_is_written():
    assert votes_of(["0.5", r"\frac{1}{2}", "1/2", "2", None]) == ["0.5", "0.5", "0.5", "2", None]


def test_votes_are_shared_by_what_the_comparison_of_the_row_calls_equal():
    equal = {(r"\sqrt{12}", r"2\sqrt{3}")}
    votes = votes_of([r"2\sqrt{3}", r"\sqrt{12}", "3"], lambda one, other: (one, other) in equal)
    assert votes == [r"2\sqrt{3}", r"2\sqrt{3}", "3"]


@pytest.mark.parametrize(
    ("data_source", "ability", "is_judged", "expected"),
    [
        ("openai/gsm8k", "math", False, "math_verify"),
        ("hotpotqa", "qa", False, "f1"),
        ("hotpotqa", "qa", True, "f1"),
        ("gaia-benchmark/GAIA", "qa", True, "quasi_exact_match"),
        ("simpleqa", "qa", False, "exact_match"),
        ("simpleqa", "qa", True, "judge"),
        ("webwalkerqa", "qa", True, "judge"),
        ("cais/hle", "qa", True, "judge"),
        ("xbench-deepsearch", "qa", True, "judge"),
        ("athletes", "qa", True, "f1"),
        ("tiny_world/lookup", "lookup", False, "f1"),
    ],
)
def test_each_benchmark_has_its_accuracy(data_source, ability, is_judged, expected):
    measures = measures_of(data_source, ability, is_judged)
    assert measures[0] == expected
    assert ("judge" in measures) == is_judged
