"""Rule and budget arithmetic on numbers worked out by hand."""

import random

import pytest

from arpo_verl.branching import branch_score, certain_top_ups, draw_forks, draw_reference_forks, possible_forks


def test_score_is_alpha_plus_beta_times_change():
    assert branch_score(1.5, base_probability=0.5, entropy_weight=0.2) == pytest.approx(0.8)


def test_threshold_is_strict_and_all_or_nothing():
    assert draw_forks(0.5, "threshold", 0.5, candidates=3, generator=random.Random(0)) == 0
    assert draw_forks(0.5001, "threshold", 0.5, candidates=3, generator=random.Random(0)) == 3


@pytest.mark.parametrize(("score", "forks"), [(-0.7, 0), (0.0, 0), (1.0, 4), (3.9, 4)])
def test_bernoulli_clips_the_probability(score, forks):
    assert draw_forks(score, "bernoulli", 0.5, candidates=4, generator=random.Random(0)) == forks


def test_bernoulli_candidates_draw_on_their_own():
    generator = random.Random(0)
    counts = [draw_forks(0.3, "bernoulli", 0.5, candidates=2, generator=generator) for _ in range(20_000)]
    # Binomial(2, 0.3): 0.49, 0.42, 0.09; five standard errors of a share of 20 000 are at most 0.018.
    for forks, share in enumerate((0.49, 0.42, 0.09)):
        assert counts.count(forks) / len(counts) == pytest.approx(share, abs=0.018)


def released_decision(change: float, alpha: float, beta: float, candidates: int, generator: random.Random) -> int:
    """The released code's lines on one active rollout, written out."""
    forks = 0
    for _ in range(candidates):
        probability = generator.random() - beta * change
        probability = max(0.0, min(1.0, probability))
        if probability > alpha:
            continue
        forks += 1
    return forks


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("change", [-9.0, -1.0, -0.0, 0.0, 0.7, 9.0])
@pytest.mark.parametrize("beta", [0.0, 0.2, 1.0])
def test_reference_draws_what_the_released_code_draws(alpha, change, beta):
    for seed in range(50):
        for candidates in range(5):
            ours = draw_reference_forks(change, alpha, beta, candidates, random.Random(seed))
            assert ours == released_decision(change, alpha, beta, candidates, random.Random(seed))


@pytest.mark.parametrize(
    ("alpha", "change", "share"),
    # β is 0.2; the probability is clip(α + β ΔH, 0, 1), but where α is 1.
    [
        *[(0.5, 0.0, 0.5), (0.5, 1.0, 0.7), (0.5, -1.0, 0.3), (0.5, 9.0, 1), (0.5, -9.0, 0)],
        *[(0.0, 1.0, 0.2), (0.0, -1.0, 0), (1.0, 0.0, 1), (1.0, -1.0, 1), (1.0, -9.0, 1), (1.0, 9.0, 1)],
    ],
)
def test_reference_is_a_coin_but_where_alpha_is_1(alpha, change, share):
    generator = random.Random(0)
    forks = sum(draw_reference_forks(change, alpha, 0.2, 2, generator) for _ in range(10_000))
    # Five standard errors of a share of 20 000 are at most 0.018.
    assert forks / 20_000 == pytest.approx(share, abs=0.018 if 0 < share < 1 else 0)


@pytest.mark.parametrize(
    ("decisions", "factor", "forks"),
    [(0, 2, 0), (1, 2, 1), (2, 2, 3), (3, 2, 7), (2, 3, 8), (1, 1, 0), (9, 1, 0), (50, 2, 16)],
)
def test_a_leaf_can_still_add_z_to_the_decisions_minus_one(decisions, factor, forks):
    assert possible_forks(decisions, factor, at_most=16) == forks


@pytest.mark.parametrize(("missing", "possible", "top_ups"), [(4, [], 4), (4, [1, 1], 2), (4, [3, 3], 0), (0, [1], 0)])
def test_only_what_has_become_certain_is_topped_up(missing, possible, top_ups):
    assert certain_top_ups(missing, possible) == top_ups
