"""What forks that depend on the state do to gradients: a task of two decisions, of which the first decides how often
the second is sampled, summed over all that can happen."""

import itertools
import math

import pytest
import torch
from tree_examples import GROUP, NODE, batch_of

from arpo_verl.advantages import TreeBatch
from arpo_verl.advantages.term_sum import term_sum

POLICY = (0.5, 0.3, 0.2)
"""π of the first decision."""
VALUES = (0.2, 0.5, 0.9)
"""Q, the probability of reward 1 after each first decision, whatever the second."""
FORKS = (1, 1, 3)
"""K, how many leaves follow each first decision."""
TRUE = [p * (q - 0.43) for p, q in zip(POLICY, VALUES, strict=True)]
"""Σ π (Q - μ) e, the gradient by the logits of the first decision; μ = .43."""
ROOT = [{**NODE, "baseline": "root"}]
UNBIASED = {
    "leaves weighted by the inverse": {"terms": GROUP, "multiplicity": "inverse"},
    "children's mean, weighted by the inverse": {"terms": ROOT, "value": "child_mean", "multiplicity": "inverse"},
    "children's mean, each turn once": {"terms": [{**ROOT[0], "once": True}], "value": "child_mean"},
}
TILTED = {
    "leaves": {"terms": GROUP},
    "leaves' mean": {"terms": ROOT, "value": "leaf_mean"},
}


def tree(decisions: list[int], rewards: list[float]) -> TreeBatch:
    """Return a prompt with a root for each first decision, and the leaves' rewards in order."""
    ids = [[10 * root, 10 * root + 1, 10 * root + 2 + leaf]
           for root, decision in enumerate(decisions) for leaf in range(FORKS[decision])]  # fmt: skip
    return batch_of(ids, [[1, 0, 1]] * len(ids), rewards)


def gradient(decisions: list[int], rewards: list[float], settings: dict) -> torch.Tensor:
    """Return Σ A ∇ log π of the first decision over all leaves, over the sum of what they weigh, by the logits."""
    advantages = term_sum(tree(decisions, rewards), **settings)[:, 0]
    leaf_decisions = torch.tensor([decision for decision in decisions for _ in range(FORKS[decision])])
    scores = torch.eye(3, dtype=torch.float64)[leaf_decisions] - torch.tensor(POLICY, dtype=torch.float64)
    is_once = any(term.get("once") for term in settings["terms"])
    return (advantages.unsqueeze(1) * scores).sum(0) / (len(decisions) if is_once else len(leaf_decisions))


def expected_gradient(roots: int, settings: dict) -> torch.Tensor:
    """Return the mean over all decisions and all rewards, each with its probability."""
    total = torch.zeros(3, dtype=torch.float64)
    for decisions in itertools.product(range(3), repeat=roots):
        leaves = [VALUES[decision] for decision in decisions for _ in range(FORKS[decision])]
        chance = math.prod(POLICY[decision] for decision in decisions)
        for rewards in itertools.product((0.0, 1.0), repeat=len(leaves)):
            chances = [q if reward else 1 - q for q, reward in zip(leaves, rewards, strict=True)]
            total += chance * math.prod(chances) * gradient(list(decisions), list(rewards), settings)
    return total


# All roots of a prompt as often as the policy chooses them, and the reward that each is worth.
POPULATION = [0] * 5 + [1] * 3 + [2] * 2
MEANS = [VALUES[decision] for decision in POPULATION for _ in range(FORKS[decision])]


@pytest.mark.parametrize("name", UNBIASED)
def test_weights_by_the_inverse_and_children_that_count_once_give_the_true_gradient(name):
    found = gradient(POPULATION, MEANS, UNBIASED[name])
    assert found.tolist() == pytest.approx(TRUE, abs=1e-9)
    assert found[1].item() == pytest.approx(0.021)


@pytest.mark.parametrize("name", TILTED)
def test_leaves_that_count_alike_follow_a_policy_tilted_to_states_that_fork(name):
    found = gradient(POPULATION, MEANS, TILTED[name])
    tilted, mean = (5 / 14, 3 / 14, 6 / 14), 7.9 / 14
    assert mean == pytest.approx(0.564, abs=1e-3)
    assert found.tolist() == pytest.approx([p * (q - mean) for p, q in zip(tilted, VALUES, strict=True)], abs=1e-9)
    assert found[1].item() == pytest.approx(-0.014, abs=1e-3)  # the sign of the second decision flips
    cosine = torch.nn.functional.cosine_similarity(found, torch.tensor(TRUE, dtype=torch.float64), dim=0)
    assert cosine.item() == pytest.approx(0.967, abs=1e-3)


def test_over_all_samples_of_two_roots_the_inverse_is_unbiased_up_to_the_groups_own_mean():
    """The mean of n roots has each root in it, which takes 1/n of the gradient, as in GRPO."""
    found = expected_gradient(2, UNBIASED["leaves weighted by the inverse"])
    assert found.tolist() == pytest.approx([one / 2 for one in TRUE], abs=1e-9)


def test_over_all_samples_of_two_roots_leaves_that_count_alike_have_another_direction():
    # Two roots i and j give K_i K_j (Q_i - Q_j) / (K_i + K_j)² to i and its negative to j: -.075 for the first two,
    # -.13125 for the first and third, -.075 for the last two, with the probabilities 2 π_i π_j.
    found = expected_gradient(2, TILTED["leaves"])
    first, outer, last = -0.3 * 0.075, -0.2 * 0.13125, -0.12 * 0.075
    assert found.tolist() == pytest.approx([first + outer, last - first, -outer - last], abs=1e-9)
    assert found[1].item() == pytest.approx(0.0135) and TRUE[1] / 2 == pytest.approx(0.0105)
