"""The batch as advantages see it: turns, what counts, and what does not fit."""

import math

import pytest
import torch

from arpo_verl.advantages import ADVANTAGES, TreeBatch
from arpo_verl.advantages.tree.tree_batch import pad_rows, turn_ids

# T5 of the usual notation: A forks into three at the end of its first result; B does not fork; C answers at once.
SEGMENTS = [[0, 0, 1, 2, 2], [0, 0, 1, 3, -1], [0, 0, 1, 4, 4], [5, 5, 6, 7, -1], [8, 8, -1, -1, -1]]
MASK = [[1, 1, 0, 1, 1], [1, 1, 0, 1, 0], [1, 1, 0, 1, 1], [1, 1, 0, 1, 0], [1, 1, 0, 0, 0]]
REWARDS = [1.0, 0.0, 0.0, 1.0, 0.0]


def batch(**changes) -> TreeBatch:
    rewards = torch.zeros(5, 5, dtype=torch.float64)
    rewards[:, 1] = torch.tensor(REWARDS, dtype=torch.float64)
    fields = {
        "token_level_rewards": rewards,
        "response_mask": torch.tensor(MASK),
        "prompt": torch.zeros(5, dtype=torch.long),
        "is_excluded": torch.zeros(5, dtype=torch.bool),
        "segment_ids": torch.tensor(SEGMENTS),
        "parents": torch.tensor([-1, 0, 0, -1, -1]),
        "fork_tokens": torch.tensor([0, 3, 3, 0, 0]),
    }
    return TreeBatch(**(fields | changes))


def test_turns_are_counted_from_1_in_each_row():
    expected = [[1, 1, 0, 2, 2], [1, 1, 0, 2, 0], [1, 1, 0, 2, 2], [1, 1, 0, 2, 0], [1, 1, 0, 0, 0]]
    assert batch().turn_ids.tolist() == expected
    assert batch(segment_ids=None).turn_ids.tolist() == expected


def test_a_new_segment_begins_a_turn_also_without_a_result_before_it():
    ids = turn_ids(
        torch.tensor([[1, 1, 1, 0, 0, 1], [0, 1, 1, 1, 0, 0]]), torch.tensor([[0, 0, 1, 2, 3, 4], [5, 6, 6, 6, 7, 8]])
    )
    assert ids.tolist() == [[1, 1, 2, 0, 0, 3], [0, 1, 1, 1, 0, 0]]


def test_soft_and_hard_are_the_papers_on_a_tree_worked_out_by_hand():
    soft = ADVANTAGES.find("soft", "key")(batch(), norm_adv_by_std_in_grpo=False)
    assert soft[:, 0].tolist() == pytest.approx([3 / 5, -2 / 5, -2 / 5, 3 / 5, -2 / 5])
    hard = ADVANTAGES.find("hard", "key")(batch(), norm_adv_by_std_in_grpo=False)
    assert hard[:, 0].tolist() == pytest.approx([-1 / 15, -1 / 15, -1 / 15, 3 / 5, -2 / 5])
    assert hard[:, 3].tolist() == pytest.approx([3 / 5, -2 / 5, -2 / 5, 3 / 5, 0])
    scaled = ADVANTAGES.find("soft", "key")(batch(), epsilon=0.0)
    assert scaled[:, 0].tolist() == pytest.approx([1.095445, -0.730297, -0.730297, 1.095445, -0.730297], abs=1e-6)


def test_an_excluded_leaf_is_out_of_all_statistics():
    without = batch(is_excluded=torch.tensor([False, True, False, False, False]))
    hard = ADVANTAGES.find("hard", "key")(without, norm_adv_by_std_in_grpo=False)
    assert hard[:, 0].tolist() == pytest.approx([0, 0, 0, 1 / 2, -1 / 2])
    assert hard[:, 3].tolist() == pytest.approx([1 / 2, 0, -1 / 2, 1 / 2, 0])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_whose_reward_is_no_number_does_not_count(bad, caplog):
    rewards = batch().token_level_rewards.clone()
    rewards[3, 0] = bad
    changed = batch(token_level_rewards=rewards)
    assert changed.is_counted.tolist() == [True, True, True, False, True]
    assert changed.rewards.tolist() == [1, 0, 0, 0, 0]
    assert f"rows 3 ({bad})" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segment_ids": torch.zeros(5, 4)}, "'segment_ids': (5, 4)"),
        ({"entropies": torch.zeros(4, 5)}, "'entropies': (4, 5)"),
        ({"log_probs": torch.zeros(5)}, "'log_probs': (5,)"),
        ({"parents": torch.zeros(4)}, "parents has the shape (4,); expected (5,)"),
        ({"fork_tokens": torch.zeros(5, 1)}, "fork_tokens has the shape (5, 1)"),
        ({"prompt": torch.zeros(6)}, "prompt has the shape (6,)"),
        ({"is_excluded": torch.zeros(5, 5)}, "is_excluded has the shape (5, 5)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_by_name(change, message):
    with pytest.raises(ValueError) as refused:
        batch(**change)
    assert message in str(refused.value)


def test_an_advantage_that_needs_what_there_is_not_says_so():
    with pytest.raises(ValueError, match="segment_ids=None; expected the ids of every token"):
        ADVANTAGES.find("hard", "key")(batch(segment_ids=None))
    with pytest.raises(ValueError, match=r"entropies=None; .*bypass_mode=True"):
        batch().known_entropies()


def test_rows_of_different_lengths_are_padded():
    assert pad_rows([torch.tensor([1, 2]), torch.tensor([3])], 4).tolist() == [[1, 2, -1, -1], [3, -1, -1, -1]]
