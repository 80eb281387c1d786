"""Entropies from log-probabilities, on numbers worked out by hand and against the whole distribution."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arpo_verl.entropy import (
    branch_score,
    entropy_change,
    position_entropies,
    reference_entropy_change,
    surprisals,
    topk_entropy,
    truncated_entropy,
)


def logs(*probabilities: float) -> list[float]:
    return [math.log(p) if p > 0 else -math.inf for p in probabilities]


def test_surprisal_is_minus_log_p():
    assert surprisals(logs(0.5, 0.25)) == [pytest.approx(0.6931, abs=1e-4), pytest.approx(1.3863, abs=1e-4)]


def test_a_whole_distribution_gives_its_entropy():
    # 0.5 ln 2 + 2 * 0.25 ln 4
    assert topk_entropy(logs(0.5, 0.25, 0.25)) == pytest.approx(1.0397, abs=1e-4)
    assert truncated_entropy(logs(0.5, 0.25, 0.25)) == pytest.approx(1.0397, abs=1e-4)


def test_the_rest_counts_as_tokens_as_likely_as_the_k_th():
    # 0.5 and 0.125 are seen, 0.375 is left: three tokens of 0.125. 0.5 ln 2 + 4 * 0.125 ln 8 = 0.3466 + 1.0397
    assert topk_entropy(logs(0.5, 0.125)) == pytest.approx(1.3863, abs=1e-4)


def test_a_rest_smaller_than_the_k_th_counts_as_one_token():
    # 0.6 and 0.3 are seen, 0.1 is left. 0.6 * 0.5108 + 0.3 * 1.2040 + 0.1 * 2.3026
    assert topk_entropy(logs(0.6, 0.3)) == pytest.approx(0.8979, abs=1e-4)


def test_a_token_that_sampling_excludes_counts_nothing():
    assert topk_entropy(logs(0.5, 0.5, 0.0)) == pytest.approx(0.6931, abs=1e-4)
    assert truncated_entropy(logs(0.5, 0.5, 0.0)) == pytest.approx(0.6931, abs=1e-4)


def test_rounding_above_one_leaves_no_rest():
    assert topk_entropy([0.0, -30.0]) == pytest.approx(0.0, abs=1e-9)


@st.composite
def distributions(draw):
    weights = draw(st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=60))
    total = sum(weights)
    return sorted((weight / total for weight in weights), reverse=True)


@settings(max_examples=300, deadline=None)
@given(distributions(), st.integers(1, 30))
def test_the_estimate_lies_between_the_rest_as_one_token_and_the_rest_spread_evenly(distribution, top_k):
    seen, hidden = distribution[:top_k], distribution[top_k:]
    rest = sum(hidden)
    base = truncated_entropy(logs(*seen))
    as_one = base - (rest * math.log(rest) if rest > 0 else 0)
    evenly = base - (rest * math.log(rest / len(hidden)) if hidden else 0)
    assert as_one - 1e-9 <= topk_entropy(logs(*seen)) <= evenly + 1e-9
    # The whole distribution's entropy is never below the estimate: no token of the rest is likelier than the K-th.
    assert topk_entropy(logs(*seen)) <= truncated_entropy(logs(*distribution)) + 1e-9


def test_only_the_first_positions_are_measured_and_a_sampled_token_beyond_k_belongs_to_the_rest():
    positions = [logs(0.5, 0.3, 0.01), logs(1e-9, 1.0), logs(0.5, 0.5)]
    # 0.5 ln 2 + 0.3 ln(1/0.3) + 0.2 ln 5
    expected = [pytest.approx(1.0297, abs=1e-4), pytest.approx(0.0, abs=1e-6)]
    assert position_entropies(positions, tokens=2, top_k=2, is_truncated=False) == expected


def test_the_released_codes_sum_takes_all_that_it_is_given():
    # 0.5 ln 2 + 0.3 ln(1/0.3) + 0.01 ln 100
    assert position_entropies([logs(0.5, 0.3, 0.01)], 1, 2, True) == [pytest.approx(0.7538, abs=1e-4)]


def test_change_is_the_summed_difference_over_log_v():
    # (3 - 1) + (2 - 2) over the two positions that both have, over ln 100.
    assert entropy_change([3.0, 2.0, 9.0], [1.0, 2.0], 100) == pytest.approx(2 / 4.60517, rel=1e-5)


def test_nothing_watched_is_no_change():
    assert entropy_change([], [1.0], 100) == entropy_change([1.0], [], 100) == 0.0


def test_a_vocabulary_of_one_is_refused():
    with pytest.raises(ValueError, match="vocabulary_size=1"):
        entropy_change([1.0], [1.0], 1)


def test_surprisals_of_samples_average_to_the_entropy():
    probabilities = [0.5, 0.25, 0.125, 0.125]
    entropy = 1.75 * math.log(2)
    drawn = random.Random(0).choices(probabilities, probabilities, k=20_000)
    mean = sum(surprisals([math.log(p) for p in drawn])) / len(drawn)
    # Standard deviation 0.57, so 0.004 for the mean; five of them.
    assert mean == pytest.approx(entropy, abs=0.02)


def test_score_is_alpha_plus_beta_times_change():
    assert branch_score(1.5, base_probability=0.5, entropy_weight=0.2) == pytest.approx(0.8)


def test_the_reference_change_takes_all_positions_that_each_has():
    # (3 + 2 + 9) - (1 + 2), over ln 100.
    assert reference_entropy_change([3.0, 2.0, 9.0], [1.0, 2.0], 100) == pytest.approx(11 / 4.60517, rel=1e-5)


def test_the_reference_entropy_of_hand_worked_log_probabilities():
    """The released code's arithmetic: two steps of two tokens, three log-probabilities each, V = 1000."""
    first = [truncated_entropy(logs(0.9, 0.05, 0.01)), truncated_entropy(logs(1.0, 0.0, 0.0))]
    second = [truncated_entropy(logs(0.5, 0.25, 0.125)), truncated_entropy(logs(0.4, 0.4, 0.1))]
    # 0.9*0.1054 + 0.05*2.9957 + 0.01*4.6052 = 0.2907; 0; 0.3466 + 0.3466 + 0.2599 = 0.9531; 2*0.3665 + 0.2303 = 0.9633
    assert first == [pytest.approx(0.2907, abs=1e-4), 0.0]
    assert second == [pytest.approx(0.9531, abs=1e-4), pytest.approx(0.9633, abs=1e-4)]
    change = reference_entropy_change(second, first, 1000)
    assert change == pytest.approx(1.6257 / 6.9078, abs=1e-4)
    # alpha 0.5, beta 0.2: the fork is drawn with probability 0.5471.
    score = branch_score(change, 0.5, 0.2)
    assert score == pytest.approx(0.5471, abs=1e-4)


def test_topk_and_surprisal_branch_equally_often_on_the_same_states():
    """Rates of 20 000 decisions on 40 states differ by less than four standard errors."""
    generator = random.Random(5)
    states = []
    for _ in range(40):
        weights = [[generator.random() ** 6 for _ in range(15)] for _ in range(5)]
        states.append([[weight / sum(position) for weight in position] for position in weights])
    initial = [0.3] * 5
    counts = {"topk": 0, "surprisal": 0}
    for number in range(20_000):
        state = states[number % len(states)]
        measured = {
            "topk": [topk_entropy(logs(*position)) for position in state],
            "surprisal": surprisals(logs(*(generator.choices(position, position)[0] for position in state))),
        }
        for source, entropies in measured.items():
            score = branch_score(entropy_change(entropies, initial, 1000), 0.4, 0.2)
            counts[source] += generator.random() < score
    rates = {source: count / 20_000 for source, count in counts.items()}
    assert rates["topk"] == pytest.approx(rates["surprisal"], abs=4 * math.sqrt(2 * 0.25 / 20_000))
    assert rates["topk"] > 0.45  # the states do move the rate away from alpha
