"""The packed sequence: what stands where, which keys a query sees, and attention that sees no more and no less."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from arpo_verl.packing import runs
from arpo_verl.packing.pack import Pack, Run
from arpo_verl.packing.runs import Runs
from arpo_verl.packing.sdpa import sdpa_by_runs

ROWS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=7), min_size=1, max_size=6)


def pack_of(rows: Sequence[Sequence[int]]) -> Pack:
    return Pack.of([np.array(row) for row in rows])


@pytest.fixture(autouse=True)
def no_runs_are_left():
    yield
    runs.use(None)


def test_a_fork_repeats_the_token_before_it_so_that_each_token_has_one_next_token():
    pack = pack_of([[5, 7, 2, 4], [5, 7, 9]])
    tokens = torch.tensor([5, 7, 2, 4, 5, 7, 9])
    assert tokens[pack.source].tolist() == [5, 7, 2, 4, 7, 9]
    assert pack.places.tolist() == [0, 1, 2, 3, 0, 4, 5]
    assert pack.runs == [Run(row=0, own=4, length=4), Run(row=1, own=2, length=3)]
    assert pack.keys().tolist() == [0, 1, 2, 3, 0, 4, 5]
    assert pack.mask().int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 0, 0, 0, 1, 0],
        [1, 0, 0, 0, 1, 1],
    ]


@given(ROWS)
def test_rows_are_found_again_in_the_packed_sequence_and_labels_are_next_tokens(rows):
    pack = pack_of(rows)
    tokens = torch.tensor([token for row in rows for token in row])
    packed = tokens[pack.source]
    assert packed[pack.places].tolist() == tokens.tolist()
    labels = packed.roll(-1)[pack.places].split([len(row) for row in rows])
    for row, found in zip(rows, labels, strict=True):
        assert found[:-1].tolist() == row[1:]


@given(ROWS)
def test_a_query_sees_its_own_path_in_the_order_of_depth_and_nothing_else(rows):
    pack = pack_of(rows)
    tokens = torch.tensor([token for row in rows for token in row])
    packed, mask = tokens[pack.source], pack.mask()
    for row, places in zip(rows, pack.places.split([len(row) for row in rows]), strict=True):
        for depth, place in enumerate(places.tolist()):
            seen = mask[place].nonzero()[:, 0]
            assert packed[seen].tolist() == row[: depth + 1]
            assert seen.tolist() == places[: depth + 1].tolist()


@given(ROWS, st.sampled_from([None, 1, 2, 3, 50]), st.sampled_from([1, 2]), st.integers(0, 3))
def test_attention_by_runs_is_that_of_each_row_by_itself(rows, window, groups, padding):
    generator = torch.Generator().manual_seed(0)
    pack = pack_of(rows)
    heads, dimension = 2 * groups, 4
    shapes = ((heads, len(pack)), (2, len(pack)), (2, len(pack)))
    query, key, value = (torch.randn(1, *shape, dimension, generator=generator) for shape in shapes)
    # Copies of a token are the same state.
    first = {}
    for row, places in zip(rows, pack.places.split([len(row) for row in rows]), strict=True):
        for depth, place in enumerate(places.tolist()):
            first.setdefault(tuple(row[: depth + 1]), place)
            for state in (query, key, value):
                state[0, :, place] = state[0, :, first[tuple(row[: depth + 1])]]
    padded = [torch.cat([one, torch.randn(1, one.shape[1], padding, dimension)], 2) for one in (query, key, value)]
    runs.use(Runs.of(pack, torch.device("cpu"), padding=padding))
    output, _ = sdpa_by_runs(torch.nn.Identity(), *padded, scaling=0.3, sliding_window=window)
    assert output.shape == (1, len(pack) + padding, heads, dimension)
    for places in pack.places.split([len(row) for row in rows]):
        of_row = [one[:, :, places].repeat_interleave(heads // one.shape[1], 1) for one in (query, key, value)]
        size = len(places)
        mask = torch.ones(size, size).tril().bool()
        mask = mask if window is None else mask.triu(1 - window)
        expected = torch.nn.functional.scaled_dot_product_attention(*of_row, attn_mask=mask, scale=0.3)
        torch.testing.assert_close(output[0, places], expected[0].transpose(0, 1), atol=1e-5, rtol=1e-5)


def test_attention_without_runs_or_with_those_of_another_sequence_is_refused():
    states = [torch.randn(1, 1, 5, 2) for _ in range(3)]
    with pytest.raises(RuntimeError, match="got 5 queries; expected None"):
        sdpa_by_runs(torch.nn.Identity(), *states)
    runs.use(Runs.of(pack_of([[1, 2], [1, 3]]), torch.device("cpu")))
    with pytest.raises(RuntimeError, match=r"got 5 queries; expected 4 .*arpo\.pack_trees=off"):
        sdpa_by_runs(torch.nn.Identity(), *states)


@pytest.mark.parametrize("option", ["softcap", "s_aux"])
def test_what_the_scaled_dot_product_has_not_is_refused(option):
    states = [torch.randn(1, 1, 2, 2) for _ in range(3)]
    with pytest.raises(NotImplementedError, match=option):
        sdpa_by_runs(torch.nn.Identity(), *states, **{option: 30.0})
