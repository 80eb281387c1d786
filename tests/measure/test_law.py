"""The law: its worked examples, what baselines can't break, and K* as the best K."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arpo_verl.measure.law import (
    GROUP,
    SHRUNK,
    SIBLINGS,
    Split,
    at_worst,
    optimal_leaves,
    optimal_leaves_of_rewards,
    relative_cost,
    residual,
)

POSITIVE = st.floats(0.01, 10)


def split_of(between=0.2, within=0.3, before=2.0, after=3.0, score_before=2.0, score_after=3.0) -> Split:
    return Split(*(np.array([one]) for one in (between, within, before, after, score_before, score_after)))


SPLITS = st.builds(split_of, POSITIVE, POSITIVE, POSITIVE, POSITIVE, POSITIVE, POSITIVE)


def test_the_worked_example_of_the_law():
    # Variances .02 between and .3 within prefixes of a gradient that the suffix has no part in, equal costs.
    split = split_of(0.02, 0.3, 1.0, 1.0, 1.0, 0.0)
    assert optimal_leaves(split, 16) == pytest.approx(3.873, abs=1e-3)
    assert optimal_leaves_of_rewards(split, 16) == pytest.approx(3.873, abs=1e-3)
    assert 1 / relative_cost(split, 4, GROUP) == pytest.approx(1.347, abs=1e-3)


def test_costs_by_hand():
    # V1 .2, W .3, t1 2, t2 3 and scores alike. Flat: (2 + 3) · .5 · 5 = 12.5; two leaves of a root cost 2 + 6 = 8.
    split = split_of()
    # Prefix 2 · (.2 + .15) = .7, suffix 3 · .5 / 2 = .75.
    assert relative_cost(split, 2, GROUP) == pytest.approx(1.45 * 8 / 12.5)
    # Suffix 3 · (.3 · 2) / 2 = .9.
    assert relative_cost(split, 2, SIBLINGS) == pytest.approx(1.6 * 8 / 12.5)
    # ρ = .4 is the weight at two leaves: .36 · .2 + .3 · 1.16 = .42, suffix 3 · .42 / 2 = .63.
    assert residual(split, 2, SHRUNK) == pytest.approx(0.42)
    assert relative_cost(split, 2, SHRUNK) == pytest.approx(1.33 * 8 / 12.5)
    # At worst .4 + .9 between prefixes and .6 + .6 within them.
    assert at_worst(split, 2) == pytest.approx((1.3 + 0.6) * 8 / 12.5)


@given(SPLITS, st.integers(2, 16))
def test_the_mix_is_no_worse_than_either_and_siblings_are_better_where_leaves_times_correlation_exceed_one(
    split, leaves
):
    mixed = residual(split, leaves, SHRUNK)
    siblings, group = residual(split, leaves, SIBLINGS), residual(split, leaves, GROUP)
    assert mixed <= min(siblings, group) * (1 + 1e-9)
    if abs(leaves * split.correlation - 1) > 1e-6:
        assert (siblings < group) == (leaves * split.correlation > 1)


@given(SPLITS, st.sampled_from([GROUP, SIBLINGS, SHRUNK]))
def test_one_leaf_of_each_root_costs_what_grpo_costs(split, baseline):
    assert relative_cost(split, 1, baseline) == pytest.approx(1)
    assert at_worst(split, 1) == pytest.approx(1)


@given(SPLITS)
def test_the_best_number_of_leaves_is_the_one_with_the_least_cost(split):
    best = float(optimal_leaves(split, 1e9)[0])
    if best > 1:
        costs = [float(relative_cost(split, k, GROUP)[0]) for k in (best * 0.9, best, best * 1.1)]
        assert costs[1] <= min(costs[0], costs[2]) * (1 + 1e-12)


@given(SPLITS, st.integers(2, 16))
def test_suffixes_that_differ_between_prefixes_make_a_tree_dearer(split, leaves):
    assert at_worst(split, leaves) >= relative_cost(split, leaves, GROUP) * (1 - 1e-9)


def test_the_number_of_leaves_is_bounded_where_prefixes_decide_nothing_or_suffixes_are_free():
    assert optimal_leaves_of_rewards(split_of(between=0.0), 8) == 8
    assert optimal_leaves(split_of(after=0.0), 8) == 8
    assert optimal_leaves_of_rewards(split_of(within=0.0), 8) == 1
