"""The estimator against hand-worked groups, against verl's own GRPO, and against brute force on random trees."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arpo_verl.algorithms.arpo import compute_arpo_advantage


def rewards_at_end(scores: list[float], length: int) -> torch.Tensor:
    rewards = torch.zeros(len(scores), length)
    rewards[:, -1] = torch.tensor(scores)
    return rewards


def test_soft_is_the_group_relative_score_on_sampled_tokens():
    # Scores 0, 1, 2: mean 1, standard deviation 1 (n - 1).
    mask = torch.tensor([[1, 0, 1], [1, 1, 1], [1, 1, 0]])
    advantages, returns = compute_arpo_advantage(rewards_at_end([0, 1, 2], 3), mask, ["p"] * 3, epsilon=0)
    assert advantages.tolist() == [[-1, 0, -1], [0, 0, 0], [1, 1, 0]]
    assert returns is advantages


def test_without_the_standard_deviation_the_score_is_only_centred():
    mask = torch.ones(2, 1)
    advantages, _ = compute_arpo_advantage(rewards_at_end([0, 4], 1), mask, ["p", "p"], norm_by_std=False)
    assert advantages.tolist() == [[-2], [2]]


def test_hard_gives_a_shared_token_the_mean_of_its_leaves():
    # Leaves a and b share segment 0; c has its own. Scores 0, 2, 4 without the standard deviation: -2, 0, 2.
    segments = torch.tensor([[0, 1, -1], [0, 2, 2], [3, 3, 3]])
    mask = (segments != -1).int()
    advantages, _ = compute_arpo_advantage(
        rewards_at_end([0, 2, 4], 3), mask, ["p"] * 3, segment_ids=segments, mode="hard", norm_by_std=False
    )
    assert advantages.tolist() == [[-1, -2, 0], [-1, 0, 0], [2, 2, 2]]


def test_hard_does_not_share_between_prompts_that_use_the_same_ids():
    segments = torch.tensor([[0], [0], [0], [0]])
    advantages, _ = compute_arpo_advantage(
        rewards_at_end([0, 2, 10, 30], 1),
        torch.ones(4, 1),
        list("aabb"),
        segment_ids=segments,
        mode="hard",
        norm_by_std=False,
    )
    assert advantages.tolist() == [[0], [0], [0], [0]]


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_equal_rewards_give_no_signal(mode):
    advantages, _ = compute_arpo_advantage(
        rewards_at_end([0.5] * 4, 2),
        torch.ones(4, 2),
        ["p"] * 4,
        segment_ids=torch.zeros(4, 2, dtype=torch.long),
        mode=mode,
    )
    assert advantages.abs().max() == 0


@pytest.mark.parametrize("reward", [1.0333, 1.0091, 0.8889])
def test_equal_rewards_that_are_no_binary_fractions_give_no_signal_either(reward):
    advantages, _ = compute_arpo_advantage(rewards_at_end([reward] * 16, 1), torch.ones(16, 1), ["p"] * 16)
    assert advantages.abs().max() < 1e-6


def test_a_nan_reward_stays_in_its_own_group():
    advantages, _ = compute_arpo_advantage(rewards_at_end([math.nan, 1, 0, 1], 1), torch.ones(4, 1), list("aabb"))
    assert advantages[:2].isnan().all()
    assert advantages[2:].isfinite().all()


def test_an_empty_batch_gives_an_empty_result():
    advantages, _ = compute_arpo_advantage(torch.zeros(0, 3), torch.zeros(0, 3), [])
    assert advantages.shape == (0, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "medium"}, "expected 'soft' or 'hard'"),
        ({"mode": "hard"}, "segment_ids=None"),
        ({"index": ["p"]}, "1 indices"),
        ({"response_mask": torch.ones(2, 4)}, "response_mask"),
        ({"segment_ids": torch.ones(2, 4)}, "segment_ids"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    arguments = {"token_level_rewards": torch.ones(2, 3), "response_mask": torch.ones(2, 3), "index": ["p", "p"]}
    with pytest.raises(ValueError, match=message):
        compute_arpo_advantage(**(arguments | change))


@st.composite
def groups(draw):
    """Random group sizes (singletons included), rewards on any token, masks with holes; rows in random order."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    index = np.array([f"prompt {number}" for number, size in enumerate(sizes) for _ in range(size)], dtype=object)
    index = index[torch.randperm(len(index), generator=generator).numpy()]
    length = draw(st.integers(1, 9))
    rewards = torch.randn(len(index), length, generator=generator)
    mask = (torch.rand(len(index), length, generator=generator) < 0.7).float()
    return rewards, mask, index


@settings(max_examples=200, deadline=None)
@given(groups(), st.booleans())
def test_soft_equals_verls_grpo(group, norm_by_std):
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    rewards, mask, index = group
    expected, _ = compute_grpo_outcome_advantage(rewards.clone(), mask, index, norm_adv_by_std_in_grpo=norm_by_std)
    advantages, _ = compute_arpo_advantage(rewards, mask, index, norm_by_std=norm_by_std)
    assert torch.allclose(advantages, expected, atol=1e-6, rtol=1e-5)


def random_tree(leaves: int, generator: random.Random) -> list[list[int]]:
    """Return segment ids of leaves that fork from one another at random, of different lengths."""
    segments = iter(range(10**6))
    rows: list[list[int]] = []
    for _ in range(leaves):
        prefix: list[int] = []
        if rows and generator.random() < 0.7:
            parent = generator.choice(rows)
            cut = generator.randrange(len(parent))
            # Forks happen between segments.
            while cut and parent[cut] == parent[cut - 1]:
                cut -= 1
            prefix = parent[:cut]
        row = list(prefix)
        for _ in range(generator.randint(1, 3)):
            row += [next(segments)] * generator.randint(1, 4)
        rows.append(row)
    return rows


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(1, 3))
def test_hard_equals_brute_force_on_random_trees(seed, leaves, prompts):
    generator = random.Random(seed)
    rows = [(prompt, row) for prompt in range(prompts) for row in random_tree(leaves, generator)]
    generator.shuffle(rows)
    width = max(len(row) for _, row in rows)
    segments = torch.tensor([row + [-1] * (width - len(row)) for _, row in rows])
    index = [prompt for prompt, _ in rows]
    rewards = torch.zeros(segments.shape, dtype=torch.float64)
    rewards[:, 0] = torch.tensor([generator.random() for _ in rows])
    mask = (segments != -1).double()

    soft, _ = compute_arpo_advantage(rewards, mask, index)
    hard, _ = compute_arpo_advantage(rewards, mask, index, segment_ids=segments, mode="hard")
    for i, (prompt, row) in enumerate(rows):
        for t, segment in enumerate(row):
            copies = [
                j for j, (other, ids) in enumerate(rows) if other == prompt and t < len(ids) and ids[t] == segment
            ]
            expected = sum(soft[j, t].item() for j in copies) / len(copies)
            assert hard[i, t].item() == pytest.approx(expected, abs=1e-9)
    # Sharing moves advantage between copies and neither creates nor destroys any.
    assert hard.sum().item() == pytest.approx(soft.sum().item(), abs=1e-9)


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_an_excluded_leaf_counts_nowhere_and_learns_nothing(mode):
    rewards = rewards_at_end([0.0, 2.0, 100.0], 2)
    segments = torch.tensor([[1, 2], [1, 3], [1, 4]])
    excluded = torch.tensor([False, False, True])
    advantages, _ = compute_arpo_advantage(
        rewards, torch.ones(3, 2), ["p"] * 3, segments, mode, norm_by_std=False, is_excluded=excluded
    )
    # The mean of 0 and 2 is 1; the shared first token's two counted leaves have -1 and 1.
    expected = {"soft": [[-1, -1], [1, 1], [0, 0]], "hard": [[0, -1], [0, 1], [0, 0]]}[mode]
    assert advantages.tolist() == expected


def test_an_excluded_leaf_may_have_a_reward_that_is_no_number():
    rewards = rewards_at_end([0.0, 2.0, float("nan")], 1)
    excluded = torch.tensor([False, False, True])
    advantages, _ = compute_arpo_advantage(
        rewards, torch.ones(3, 1), ["p"] * 3, norm_by_std=False, is_excluded=excluded
    )
    assert advantages.tolist() == [[-1], [1], [0]]


def test_a_group_of_which_all_leaves_are_excluded_has_no_advantage():
    advantages, _ = compute_arpo_advantage(
        rewards_at_end([1.0, 2.0], 1), torch.ones(2, 1), ["p", "p"], is_excluded=torch.tensor([True, True])
    )
    assert advantages.tolist() == [[0], [0]]


def gradient(model, ids: torch.Tensor, mask: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
    """The gradient of the token-mean policy gradient loss, ratio 1 and nothing clipped."""
    logprobs = torch.log_softmax(model(ids).logits[:, :-1], dim=-1)
    taken = logprobs.gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1)
    ratio = torch.exp(taken - taken.detach())
    loss = -(ratio * advantages[:, 1:] * mask[:, 1:]).sum() / mask[:, 1:].sum()
    return torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, list(model.parameters()))])


def test_hard_and_soft_give_equal_gradients_where_nothing_is_clipped():
    """Appendix D.1, on a real model: two prompts, leaves that share prefixes, token-mean aggregation."""
    from arpo_verl.tiny_world.model import make_model, make_tokenizer

    model = make_model(make_tokenizer(), seed=0).double()
    generator = random.Random(3)
    rows = [(prompt, row) for prompt in range(2) for row in random_tree(6, generator)]
    width = max(len(row) for _, row in rows)
    segments = torch.tensor([row + [-1] * (width - len(row)) for _, row in rows])
    # Equal segments are equal tokens: a token is a function of prompt, segment and position.
    ids = torch.tensor(
        [
            [(31 * prompt + 7 * segment + t) % 150 for t, segment in enumerate(row)]
            for (prompt, _), row in zip(rows, segments.tolist(), strict=True)
        ]
    )
    mask = (segments != -1).double()
    index = [prompt for prompt, _ in rows]
    rewards = torch.zeros_like(mask)
    rewards[:, 0] = torch.tensor([generator.random() for _ in rows], dtype=torch.float64)
    by_mode = {mode: compute_arpo_advantage(rewards, mask, index, segments, mode)[0] for mode in ("soft", "hard")}
    assert not torch.allclose(by_mode["soft"], by_mode["hard"])
    soft, hard = (gradient(model, ids, mask, advantages) for advantages in by_mode.values())
    assert soft.norm() > 0.1
    # The model's norms compute in single precision.
    assert (soft - hard).abs().max() < 1e-6 * soft.norm()
