"""The order of rows and their micro-batches, against a tree of tokens built token by token."""

import itertools
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arpo_verl.packing.depth_first import DepthFirst, split

ROWS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=7), min_size=1, max_size=7)
"""Few ids, so that rows share, repeat and begin each other."""


def walk_of(rows: Sequence[Sequence[int]]) -> DepthFirst:
    return DepthFirst.of([np.array(row) for row in rows])


def nodes(rows: Sequence[Sequence[int]]) -> int:
    """Return how many tokens a tree of all rows has."""
    return len({tuple(row[: end + 1]) for row in rows for end in range(len(row))})


def test_rows_of_a_tree_stand_in_the_order_of_a_walk_with_what_they_have_in_common():
    #        2 3 (row 3)
    # 5 7 <  2 4 (row 0)
    #        9   (row 1);   6 (row 2)
    walk = walk_of([[5, 7, 2, 4], [5, 7, 9], [6], [5, 7, 2, 3]])
    assert walk.rows == [3, 0, 1, 2]
    assert walk.lengths == [4, 4, 3, 1]
    assert walk.common == [0, 3, 2, 0]
    assert walk.shared == [0, 2, 1, 0]
    assert walk.own == [4, 2, 2, 1]
    assert walk.unique == 7  # 5 7 2 3, 4, 9, 6
    assert walk.computed(0, 4) == 9  # and the last token before each of two forks again
    assert walk.computed(1, 3) == 6  # 5 7 2 4, and 7 9


def test_ids_are_compared_as_numbers_and_not_by_their_digits_or_bytes():
    assert walk_of([[256], [3], [70_000], [255]]).rows == [1, 3, 0, 2]


@given(ROWS)
def test_a_walk_computes_each_token_of_the_tree_once_and_one_more_at_each_fork(rows):
    walk = walk_of(rows)
    assert sorted(walk.rows) == list(range(len(rows)))
    assert walk.unique == nodes(rows)
    assert sum(walk.own) == nodes(rows) + sum(common > 0 for common in walk.common)
    for before, place, common in zip(walk.rows, walk.rows[1:], walk.common[1:], strict=False):
        size = len(
            list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(rows[before], rows[place], strict=False)))
        )
        assert common == size


def test_a_row_without_a_token_is_refused():
    with pytest.raises(ValueError, match=r"rows \[1\] of 2 have no token; expected one at least"):
        walk_of([[1], []])


def tokens_of(rows: Sequence[Sequence[int]], sets: Sequence[Sequence[int]]) -> list[int]:
    return [sum(walk_of([rows[place] for place in members]).own) for members in sets]


def all_cuts(walk: DepthFirst) -> list[list[list[int]]]:
    """Return every way to cut a walk."""
    count = len(walk.rows)
    found = []
    for inner in itertools.chain.from_iterable(itertools.combinations(range(1, count), k) for k in range(count)):
        ends = [0, *inner, count]
        found.append([list(walk.rows[a:b]) for a, b in itertools.pairwise(ends)])
    return found


@given(ROWS, st.integers(1, 20))
def test_no_other_cut_within_the_budget_computes_fewer_tokens_or_as_few_in_fewer_sets(rows, budget):
    walk = walk_of(rows)

    def cost(sets: list[list[int]]) -> tuple[int, int] | None:
        sizes = tokens_of(rows, sets)
        fits = all(size <= budget or len(members) == 1 for size, members in zip(sizes, sets, strict=True))
        return (sum(sizes), len(sets)) if fits else None

    sets = split(walk, budget)
    assert sorted(place for members in sets for place in members) == list(range(len(rows)))
    assert cost(sets) == min(one for one in map(cost, all_cuts(walk)) if one is not None)


def test_a_tree_larger_than_the_budget_is_cut_where_its_prefix_is_repeated_cheapest():
    # Two subtrees of two leaves each under a prompt of 2 tokens: 1 1 | 2 2 2 2 + 5 or 6 | 3 3 3 3 + 5 or 6.
    rows = [[1, 1, 2, 2, 2, 2, 5], [1, 1, 3, 3, 3, 3, 5], [1, 1, 2, 2, 2, 2, 6], [1, 1, 3, 3, 3, 3, 6]]
    assert split(walk_of(rows), 18) == [[0, 2, 1, 3]]  # 7 + 2 + 6 + 2 tokens
    assert split(walk_of(rows), 16) == [[0, 2], [1, 3]]
    assert tokens_of(rows, split(walk_of(rows), 16)) == [9, 9]


def test_a_row_longer_than_the_budget_is_a_set_of_its_own():
    assert split(walk_of([[1, 2, 3, 4], [1, 2]]), 3) == [[1], [0]]


@given(ROWS, st.data())
def test_more_sets_are_made_of_the_largest_ones_for_ranks_that_need_as_many(rows, data):
    count = data.draw(st.integers(1, len(rows)))
    sets = split(walk_of(rows), 1000, at_least=count)
    assert len(sets) == count
    assert sorted(place for members in sets for place in members) == list(range(len(rows)))


def test_more_sets_than_rows_are_refused():
    with pytest.raises(ValueError, match="2 rows can't be split into 3 micro-batches"):
        split(walk_of([[1], [2]]), 10, at_least=3)


def test_rows_of_several_prompts_share_nothing_but_what_they_have_in_common():
    chance = random.Random(0)
    rows = [[prompt, *(chance.randrange(9) for _ in range(20))] for prompt in (1, 2, 3) for _ in range(4)]
    walk = walk_of(rows)
    assert [common for common, row in zip(walk.common, walk.rows, strict=True) if row % 4 == 0 and common == 0] != []
    assert sum(common == 0 for common in walk.common) == 3
