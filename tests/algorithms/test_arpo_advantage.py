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
    assert advantages.abs().max() == 0


def test_equal_rewards_give_no_signal_without_epsilon_either():
    advantages, _ = compute_arpo_advantage(rewards_at_end([0.1] * 3, 1), torch.ones(3, 1), ["p"] * 3, epsilon=0)
    assert advantages.tolist() == [[0], [0], [0]]


@pytest.mark.parametrize("mode", ["soft", "hard"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_leaves_its_row_out_and_is_named(mode, bad, caplog):
    # Scores 0 and 4 count: -2 and 2; the first token is shared by all three.
    advantages, _ = compute_arpo_advantage(
        rewards_at_end([0, bad, 4], 2),
        torch.ones(3, 2),
        ["p"] * 3,
        segment_ids=torch.tensor([[0, 1], [0, 2], [0, 3]]),
        mode=mode,
        norm_by_std=False,
    )
    assert advantages.tolist() == {"soft": [[-2, -2], [0, 0], [2, 2]], "hard": [[0, -2], [0, 0], [0, 2]]}[mode]
    assert f"1 of 3 rows are not finite numbers: rows 1 ({bad})" in caplog.text


def test_rewards_that_cancel_to_nan_over_a_row_and_many_bad_rows_are_named_in_one_line(caplog):
    rewards = torch.tensor([[math.inf, -math.inf]] * 20 + [[0.0, 1.0], [0.0, 3.0]])
    advantages, _ = compute_arpo_advantage(rewards, torch.ones(22, 2), ["p"] * 22, norm_by_std=False)
    assert advantages.tolist() == [[0, 0]] * 20 + [[-1, -1], [1, 1]]
    (line,) = caplog.messages
    assert "20 of 22 rows" in line and "rows 0 (nan), 1 (nan)," in line and line.count("nan") == 8


def test_finite_rewards_and_excluded_ones_that_are_not_are_nothing_to_warn_about(caplog):
    rewards = rewards_at_end([0, math.nan, 4], 1)
    compute_arpo_advantage(rewards, torch.ones(3, 1), ["p"] * 3, is_excluded=torch.tensor([False, True, False]))
    assert caplog.messages == []


def test_an_empty_batch_gives_an_empty_result():
    advantages, _ = compute_arpo_advantage(torch.zeros(0, 3), torch.zeros(0, 3), [])
    assert advantages.shape == (0, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "medium"}, "expected one of hard, soft"),
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


def prefix_structure(generator: random.Random, leaves: int, width: int) -> list[list[int]]:
    """Return the ids of rows that share prefixes cut anywhere; a token has the number of the row that first had it."""
    rows: list[list[int]] = []
    for row in range(leaves):
        length = generator.randint(0, width)
        prefix = generator.choice(rows)[: generator.randint(0, length)] if rows and generator.random() < 0.7 else []
        rows.append([one for one in prefix if one != -1] + [row] * (length - len(prefix)))
        rows[-1] += [-1] * (width - len(rows[-1]))
    return rows


def any_ids(generator: random.Random, leaves: int, width: int) -> list[list[int]]:
    """Return ids without any structure: the same id in separate runs of a row, and at other columns of another."""
    return [[generator.randrange(3) for _ in range(width)] for _ in range(leaves)]


def renamed(ids: list[list[int]], generator: random.Random) -> list[list[int]]:
    """Return the same structure with other names: negative ones, or of 63 bits as hashes are."""
    names = {one: generator.choice([one + 100, -2 - one, hash((one, 1)) % 2**63, -(2**62) + one]) for one in range(99)}
    return [[-1 if one == -1 else names[one] for one in row] for row in ids]


def by_brute_force(scores: torch.Tensor, ids: list[list[int]], index: list, counted: list[bool]) -> torch.Tensor:
    """Return the mean over the counted rows of the prompt that have the same id at the same token."""
    expected = torch.zeros(len(ids), len(ids[0]), dtype=torch.float64)
    for i, row in enumerate(ids):
        for t, own in enumerate(row):
            sharers = [j for j in range(len(ids)) if index[j] == index[i] and ids[j][t] == own and counted[j]]
            if own != -1 and counted[i]:
                expected[i, t] = sum(scores[j].item() for j in sharers) / len(sharers)
    return expected


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([prefix_structure, any_ids]), st.integers(1, 3), st.integers(1, 9))
def test_hard_shares_a_token_where_ids_are_equal_at_it_whatever_the_ids(seed, structure, prompts, width):
    generator = random.Random(seed)
    ids, index = [], []
    for prompt in range(prompts):
        rows = structure(generator, generator.randint(1, 6), width)
        ids += renamed(rows, generator) if generator.random() < 0.5 else rows
        index += [prompt] * len(rows)
    order = generator.sample(range(len(ids)), len(ids))
    ids, index = [ids[i] for i in order], [index[i] for i in order]
    counted = [generator.random() < 0.8 for _ in ids]
    rewards = torch.zeros(len(ids), width, dtype=torch.float64)
    rewards[:, 0] = torch.tensor([generator.random() for _ in ids])
    excluded = torch.tensor([not one for one in counted])
    soft, _ = compute_arpo_advantage(rewards, torch.ones(rewards.shape), index, is_excluded=excluded)
    hard, _ = compute_arpo_advantage(
        rewards, torch.ones(rewards.shape), index, torch.tensor(ids), "hard", is_excluded=excluded
    )
    assert torch.allclose(hard, by_brute_force(soft[:, 0], ids, index, counted), atol=1e-9)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        # Rewards 0 and 2: -1 and 1 alone, 0 together.
        ([[7, 7, 7, 7], [7, 7, 8, 8]], [[0, 0, -1, -1], [0, 0, 1, 1]]),
        ([[7, 8, 8, 8], [7, 7, 8, 8]], [[0, -1, 0, 0], [0, 1, 0, 0]]),
        ([[7, 8, 7, 8], [7, 9, 7, 9]], [[0, -1, 0, -1], [0, 1, 0, 1]]),
        ([[7, 7, 8, 8], [8, 8, 7, 7]], [[-1, -1, -1, -1], [1, 1, 1, 1]]),
        ([[7, 7, 7, 7], [7, 7, 7, -1]], [[0, 0, 0, -1], [0, 0, 0, 0]]),
        ([[-1, 7, -1, 7], [-1, 7, 7, 7]], [[0, 0, 0, 0], [0, 0, 1, 0]]),
    ],
    ids=["left inside", "moved", "two runs", "elsewhere", "shorter", "padding inside"],
)
def test_hard_shares_by_tokens_and_not_by_runs(ids, expected):
    advantages, _ = compute_arpo_advantage(
        rewards_at_end([0, 2], 4), torch.ones(2, 4), ["p"] * 2, torch.tensor(ids), "hard", norm_by_std=False
    )
    assert advantages.tolist() == expected


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


def test_an_excluded_leaf_does_not_get_the_mean_of_those_who_share_its_prefix():
    # Scores 0, 1 and 5 count, mean 2: -2, -1 and 3; the first two share a token with the excluded third.
    segments = torch.tensor([[1, 2], [1, 3], [1, 4], [5, 5]])
    advantages, _ = compute_arpo_advantage(
        rewards_at_end([0.0, 1.0, 9.0, 5.0], 2),
        torch.ones(4, 2),
        ["p"] * 4,
        segments,
        "hard",
        norm_by_std=False,
        is_excluded=torch.tensor([False, False, True, False]),
    )
    assert advantages.tolist() == [[-1.5, -2], [-1.5, -1], [0, 0], [3, 3]]


@pytest.mark.parametrize("norm_by_std", [True, False])
@pytest.mark.parametrize("mode", ["soft", "hard"])
@pytest.mark.parametrize("reward", [-1.0, 0.5, 3.0])
def test_the_only_leaf_that_is_left_of_sixteen_has_nothing_to_be_compared_with(reward, mode, norm_by_std):
    excluded = torch.tensor([True] * 15 + [False])
    advantages, _ = compute_arpo_advantage(
        rewards_at_end([reward] * 16, 2),
        torch.ones(16, 2),
        ["p"] * 16,
        torch.arange(32).reshape(16, 2),
        mode,
        norm_by_std=norm_by_std,
        is_excluded=excluded,
    )
    assert advantages.abs().max() == 0


def test_a_leaf_whose_only_sibling_has_no_reward_has_nothing_to_be_compared_with():
    advantages, _ = compute_arpo_advantage(rewards_at_end([2.0, math.nan], 1), torch.ones(2, 1), ["p", "p"])
    assert advantages.tolist() == [[0], [0]]


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_a_prompts_only_leaf_keeps_its_reward_as_in_verls_grpo(mode):
    advantages, _ = compute_arpo_advantage(
        rewards_at_end([3.0, 0.0, 1.0], 1),
        torch.ones(3, 1),
        list("abb"),
        torch.tensor([[1], [1], [2]]),
        mode,
        epsilon=0,
    )
    assert advantages.tolist() == [[3], [pytest.approx(-(0.5**0.5))], [pytest.approx(0.5**0.5)]]


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
