"""The order of a batch's rows: that of its prompts, and whole trees over ranks and mini-batches."""

import random

import numpy as np
import pytest

from arpo_verl.integration.packing.row_order import order_by_cells, order_of_prompts
from arpo_verl.integration.row_key import prompt_of


def test_rows_stand_as_their_prompts_were_asked_for_whatever_finished_first():
    keys = ["b_1_0", "a_0_0", "c_x_0_0", "b_10_0", "b_2_0", "a_0_1"]
    order = order_of_prompts(keys, {"b": 4, "a": 7, "c_x": 5})
    assert [keys[row] for row in order] == ["b_1_0", "b_2_0", "b_10_0", "c_x_0_0", "a_0_0", "a_0_1"]


def test_rows_of_prompts_that_nobody_has_asked_for_stand_behind_and_always_in_one_order():
    keys = ["z_0_0", "y_0_0", "a_0_0"]
    assert order_of_prompts(keys, {"a": 3}) == [2, 1, 0]
    assert [keys[row] for row in order_of_prompts(keys[::-1], {"a": 3})] != []


def trees(sizes: dict[str, tuple[int, int]]) -> tuple[list[str], list[np.ndarray]]:
    """Return keys and tokens of leaves: by prompt, tokens that its two leaves share, and tokens that each has alone."""
    keys, rows = [], []
    for number, (prompt, (shared, own)) in enumerate(sizes.items()):
        for leaf in range(2):
            keys.append(f"{prompt}_{leaf}_0")
            rows.append(np.array([number] * shared + [100 + leaf] * own))
    return keys, rows


def test_whole_trees_are_laid_over_the_ranks_by_the_tokens_that_are_computed_of_them():
    # Computed: shared + 2 own + 1 for the repeated token of the fork: 10 + 2 + 1, 10 + 2 + 1, 2 + 20 + 1, 1 + 4 + 1.
    keys, rows = trees({"a": (10, 1), "b": (10, 1), "c": (2, 10), "d": (1, 2)})
    parts = order_by_cells(keys, [False] * 8, rows, ranks=2, mini_batches=1)
    assert [[keys[row][0] for row in part] for part in parts] in (
        [["a", "a", "b", "b"], ["c", "c", "d", "d"]],
        [["c", "c", "d", "d"], ["a", "a", "b", "b"]],
    )


def test_the_cells_of_a_mini_batch_are_of_one_size_and_mini_batches_keep_the_order_of_their_first_prompts():
    keys, rows = trees({"a": (1, 30), "b": (1, 3), "c": (1, 31), "d": (1, 4)})
    parts = order_by_cells(keys, [False] * 8, rows, ranks=2, mini_batches=2)
    mini_batches = [{keys[row][0] for part in parts for row in part[start : start + 2]} for start in (0, 2)]
    assert mini_batches == [{"a", "c"}, {"b", "d"}]


def test_rows_that_fill_a_batch_up_take_the_places_of_trees():
    keys, rows = trees({"a": (5, 5), "b": (5, 5), "c": (5, 5)})
    keys += ["padding_0_0", "padding_1_0"]
    rows += [np.array([1] * 128)] * 2
    parts = order_by_cells(keys, [False] * 6 + [True] * 2, rows, ranks=2, mini_batches=2)
    assert sorted(row for part in parts for row in part) == list(range(8))
    for part in parts:
        for start in (0, 2):
            assert len({prompt_of(keys[row]) for row in part[start : start + 2]}) == 1


@pytest.mark.parametrize(
    ("keys", "ranks", "mini_batches"),
    [
        (["a_0_0", "a_1_0", "b_0_0", "b_1_0", "b_2_0", "c_0_0"], 2, 1),  # trees of different sizes
        (["a_0_0", "a_1_0", "b_0_0", "b_1_0"], 2, 2),  # fewer trees than cells
        (["a_0_0", "a_1_0", "b_0_0", "b_1_0", "c_0_0", "c_1_0"], 2, 1),  # that can't be halved
        (["padding_0_0", "padding_1_0"], 2, 1),
    ],
)
def test_the_rows_are_left_where_whole_trees_do_not_fill_the_cells(keys, ranks, mini_batches):
    is_padding = [key.startswith("padding") for key in keys]
    rows = [np.array([1, 2])] * len(keys)
    assert order_by_cells(keys, is_padding, rows, ranks, mini_batches) is None


def test_trees_are_never_torn_and_ranks_are_alike_for_random_trees():
    chance = random.Random(0)
    for _ in range(20):
        sizes = {f"p{number}": (chance.randint(1, 50), chance.randint(1, 50)) for number in range(16)}
        keys, rows = trees(sizes)
        order = chance.sample(range(32), 32)
        keys, rows = [keys[row] for row in order], [rows[row] for row in order]
        parts = order_by_cells(keys, [False] * 32, rows, ranks=2, mini_batches=4)
        assert sorted(row for part in parts for row in part) == list(range(32))
        cells = [part[start : start + 4] for part in parts for start in range(0, 16, 4)]
        assert all(len({prompt_of(keys[row]) for row in cell}) == 2 for cell in cells)
