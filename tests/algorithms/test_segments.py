"""Segment ids of trees that were grown elsewhere, against trees drawn by hand and brute force on random ones."""

import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arpo_verl.algorithms.arpo import compute_arpo_advantage
from arpo_verl.algorithms.segments import segment_ids_from_forks, segment_ids_from_tokens


def sharers(ids: torch.Tensor) -> list[list[str]]:
    """Return, for each token, the rows that share it; empty for padding."""
    rows, width = ids.shape
    return [
        ["" if own[t] == -1 else "".join(str(j) for j in range(rows) if ids[j, t] == own[t]) for t in range(width)]
        for own in ids
    ]


def test_a_fork_shares_its_first_tokens_with_its_parent():
    ids = segment_ids_from_forks(parents=[None, 0], fork_tokens=[None, 2], lengths=[4, 3])
    assert sharers(ids) == [["01", "01", "0", "0"], ["01", "01", "1", ""]]


def test_a_fork_of_a_fork_may_leave_before_or_after_its_parent_did():
    # 1 leaves 0 after two tokens; 2 leaves 1 after one, 3 leaves 1 after three, 4 is another tree.
    ids = segment_ids_from_forks([None, 0, 1, 1, -1], [0, 2, 1, 3, 0], [4, 4, 2, 4, 1], response_length=5)
    assert sharers(ids) == [
        ["0123", "013", "0", "0", ""],
        ["0123", "013", "13", "1", ""],
        ["0123", "2", "", "", ""],
        ["0123", "013", "13", "3", ""],
        ["4", "", "", "", ""],
    ]


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_parents_forks_and_lengths_come_in_any_order_and_as_lists_or_arrays(kind):
    ids = segment_ids_from_forks(kind([1, -1]), kind([1, 0]), kind([2, 2]))
    assert sharers(ids) == [["01", "0"], ["01", "1"]]


@pytest.mark.parametrize("rows", [0, 1])
def test_no_row_and_a_row_without_tokens_have_no_ids(rows):
    assert segment_ids_from_forks([None] * rows, [0] * rows, [0] * rows).shape == (rows, 0)
    assert segment_ids_from_tokens(torch.zeros(rows, 2), [0] * rows, ["p"] * rows).tolist() == [[-1, -1]] * rows


def test_equal_beginnings_of_one_prompt_are_shared():
    tokens = torch.tensor([[5, 6, 7, 0], [5, 6, 8, 9], [5, 6, 0, 0], [5, 6, 7, 0], [6, 6, 8, 9]])
    ids = segment_ids_from_tokens(tokens, lengths=[3, 4, 2, 3, 4], index=["a", "a", "a", "b", "a"])
    assert sharers(ids) == [
        ["012", "012", "0", ""],
        ["012", "012", "1", "1"],
        ["012", "012", "", ""],
        ["3", "3", "3", ""],
        ["4", "4", "4", "4"],
    ]


def test_a_padding_token_within_the_length_is_a_token():
    ids = segment_ids_from_tokens(torch.tensor([[5, 0, 0], [5, 0, 0]]), [2, 3], ["p", "p"])
    assert sharers(ids) == [["01", "01", ""], ["01", "01", "1"]]


def runs_are_whole(ids: torch.Tensor) -> bool:
    """Whether all rows that have an id have it at the same tokens, in one piece."""
    places: dict[int, set[tuple[int, ...]]] = {}
    for row in ids.tolist():
        for one in set(row) - {-1}:
            places.setdefault(one, set()).add(tuple(t for t, own in enumerate(row) if own == one))
    return all(
        len(of_id) == 1 and max(next(iter(of_id))) - min(next(iter(of_id))) < len(next(iter(of_id)))
        for of_id in places.values()
    )


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(0, 7))
def test_random_forks_share_what_they_should_and_their_runs_are_whole(seed, rows, width):
    generator = random.Random(seed)
    parents, forks, lengths, paths = [], [], [], []
    for row in range(rows):
        parent = generator.choice([None, *range(row)])
        lengths.append(generator.randint(0, width))
        most = 0 if parent is None else min(lengths[row], lengths[parent])
        parents.append(parent)
        forks.append(generator.randint(0, most))
        # A token is named by the row that first had it and its place.
        shared = paths[parent][: forks[row]] if parent is not None else []
        paths.append(shared + [(row, t) for t in range(forks[row], lengths[row])])
    ids = segment_ids_from_forks(parents, forks, lengths, width)
    for i in range(rows):
        assert (ids[i] != -1).sum() == lengths[i]
        for j in range(rows):
            for t in range(min(lengths[i], lengths[j])):
                assert (ids[i, t] == ids[j, t]).item() == (paths[i][t] == paths[j][t])
    assert runs_are_whole(ids)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 6))
def test_random_tokens_share_their_common_prefixes_within_a_prompt(seed, rows, width):
    generator = random.Random(seed)
    tokens = [[generator.randrange(2) for _ in range(width)] for _ in range(rows)]
    lengths = [generator.randint(0, width) for _ in range(rows)]
    index = [generator.randrange(2) for _ in range(rows)]
    ids = segment_ids_from_tokens(torch.tensor(tokens), torch.tensor(lengths), index)
    for i in range(rows):
        for j in range(rows):
            for t in range(min(lengths[i], lengths[j])):
                is_shared = index[i] == index[j] and tokens[i][: t + 1] == tokens[j][: t + 1]
                assert (ids[i, t] == ids[j, t]).item() == is_shared
    assert runs_are_whole(ids)


def test_the_rollouts_own_numbers_and_these_give_the_same_advantages():
    # The rollout numbers (leaf + leaves * segment): leaf 1 forked from leaf 0 after its first call and result.
    own = torch.tensor([[0, 0, 2, 4], [0, 0, 2, 1]])
    made = segment_ids_from_forks([None, 0], [None, 3], [4, 4])
    rewards = torch.tensor([[0, 0, 0, 1.0], [0, 0, 0, 0]])
    for ids in (own, made):
        hard, _ = compute_arpo_advantage(rewards, torch.ones(2, 4), ["p"] * 2, ids, "hard", norm_by_std=False)
        assert hard.tolist() == [[0, 0, 0, 0.5], [0, 0, 0, -0.5]]


def test_the_documents_example_runs_as_it_stands():
    document = (Path(__file__).parents[2] / "docs" / "how_it_works.md").read_text()
    section = document[document.index("**By import**") : document.index("## Files")]
    names = {
        "token_level_rewards": torch.tensor([[0, 0, 0, 1.0], [0, 0, 0, 0], [0, 0, 2.0, 0]]),
        "response_mask": torch.ones(3, 4),
        "index": ["p"] * 3,
        "responses": torch.tensor([[1, 2, 3, 4], [1, 2, 5, 0], [7, 8, 9, 0]]),
        "response_lengths": [4, 3, 3],
    }
    blocks = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, names)
    # Rewards 1, 0 and 2 give 0, -1 and 1; the first two rows share two tokens.
    expected = torch.tensor([[-0.5, -0.5, 0, 0], [-0.5, -0.5, -1, 0], [1, 1, 1, 0]])
    assert torch.allclose(names["advantages"], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("parents", "fork_tokens", "lengths", "message"),
    [
        ([None, 2], [0, 1], [2, 2], r"parents\[1\] is 2; expected another row of the batch, 0 to 1, or None"),
        ([None, 1], [0, 1], [2, 2], r"parents\[1\] is 1"),
        ([None, "0"], [0, 1], [2, 2], r"parents\[1\] is '0'"),
        ([None, 0.5], [0, 1], [2, 2], r"parents\[1\] is 0.5"),
        ([1, 0], [1, 1], [2, 2], r"rows \[0, 1\] descend from one another"),
        ([None, 0], [0, 3], [2, 4], r"fork_tokens\[1\] is 3; expected 0 to 2 \(what rows 1 and 0 have both\)"),
        ([None, 0], [0, 3], [4, 2], r"fork_tokens\[1\] is 3; expected 0 to 2"),
        ([None, 0], [0, -1], [4, 2], r"fork_tokens\[1\] is -1"),
        ([None, 0], [0, 1.5], [4, 2], r"fork_tokens\[1\] is 1.5"),
        ([None, 0], [1, 1], [4, 2], r"fork_tokens\[0\] is 1; expected 0 to 0 \(the row has no parent\)"),
        ([None, 0], [0], [4, 2], r"got 2 parents and 1 fork_tokens"),
        ([None, 0], [0, 1], [4], r"got lengths \[4\] for 2 rows"),
        ([None, 0], [0, 1], [4, -2], r"lengths\[1\] is -2; expected at least 0"),
        ([None, 0], [0, 1], [4, 2.5], r"lengths holds numbers that are not whole"),
    ],
)
def test_forks_that_make_no_tree_are_refused(parents, fork_tokens, lengths, message):
    with pytest.raises(ValueError, match=message):
        segment_ids_from_forks(parents, fork_tokens, lengths)


@pytest.mark.parametrize(
    ("tokens", "lengths", "index", "message"),
    [
        (torch.zeros(4), [1] * 4, ["p"] * 4, r"token_ids has the shape \(4,\)"),
        (torch.full((2, 2), 0.5), [1, 1], ["p"] * 2, "token_ids holds numbers that are not whole"),
        (torch.zeros(2, 2), [1, 3], ["p"] * 2, r"lengths\[1\] is 3; expected at least 0 and at most response_length=2"),
        (torch.zeros(2, 2), [1], ["p"] * 2, r"got lengths \[1\] for 2 rows"),
        (torch.zeros(2, 2), [1, 1], ["p"], "got 1 indices for 2 rows"),
    ],
)
def test_tokens_that_do_not_match_are_refused(tokens, lengths, index, message):
    with pytest.raises(ValueError, match=message):
        segment_ids_from_tokens(tokens, lengths, index)
