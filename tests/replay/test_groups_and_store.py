"""Which groups have failed, whom a replayed row replaces, what the store keeps, and its weights and files."""

import json
import math
import os
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from replay_examples import LIMITS, group, row

from arpo_verl.replay import GroupLeaf, State
from arpo_verl.replay.store import files
from arpo_verl.replay.store.files import ReplayFileError, read_rows, write_rows
from arpo_verl.replay.store.group import is_all_failed, leaves_to_replace, sibling_counts, task_digest
from arpo_verl.replay.store.row import problem_of, renumbered
from arpo_verl.replay.store.row_store import RowStore
from arpo_verl.replay.store.weights import cosine_weight, median


@pytest.mark.parametrize(
    ("rewards", "is_failed"),
    [
        ((0, 0, 0, 0), True),
        ((0.1, 0.1, 0.1, 0.1), True),  # ARPO-GUI's bounds are strict: a deviation of 0 and a mean of .1
        ((0.2, 0.2, 0.2), False),
        ((0, 0, 0, 0.2), False),  # the deviation is .1
        ((-1, -1, -1, -1), True),
        ((-1, 0, 0, 0), False),
        ((1, 1, 1, 1), False),
        ((0,), False),  # a group of one has nothing to be compared with
        ((), False),
    ],
)
def test_a_group_fails_as_a_whole_with_a_low_mean_and_hardly_any_spread(rewards, is_failed):
    assert is_all_failed(group(*rewards), success=1.0, std_below=0.05, mean_below=0.2) == is_failed


def test_a_success_below_the_mean_that_is_asked_for_is_no_failed_group():
    assert not is_all_failed(group(0.15, 0.15, 0.15), success=0.15, std_below=0.05, mean_below=0.2)


def test_leaves_that_do_not_count_are_in_no_statistics():
    counted = {"is_counted": [True, True, False, False]}
    assert is_all_failed(group(0, 0, 1, math.nan, **counted), success=1.0, std_below=0.05, mean_below=0.2)
    assert group(0.5, 0, 1, math.nan, **counted).mean == 0.25
    assert math.isnan(group(1.0, is_counted=[False]).mean)


T5 = [(0, 1, 2), (0, 1, 3), (0, 1, 4), (5, 6, 7), (8,)]
"""Segments of the common example: root A forks into three, roots B and C do not fork."""


def test_leaves_that_share_nothing_have_one_sibling_and_forks_as_many_as_there_are():
    t5 = group(1, 0, 0, 1, 0, segments=T5)
    assert list(sibling_counts(t5.leaves).values()) == [3, 3, 3, 1, 1]
    # The first child forks again: the last fork point counts.
    t6 = group(1, 0, 0, 1, segments=[(0, 1, 2, 3, 4), (0, 1, 2, 3, 5), (0, 1, 6), (7, 8, 9, 10, 11)])
    assert list(sibling_counts(t6.leaves).values()) == [2, 2, 2, 1]


def test_a_leaf_that_ends_where_others_fork_is_one_of_the_siblings():
    ended = group(0, 0, 0, segments=[(0, 1), (0, 1, 2), (0, 1, 3)])
    assert list(sibling_counts(ended.leaves).values()) == [3, 3, 3]


def test_a_root_that_has_not_forked_is_replaced_first_then_one_of_the_largest_set_of_siblings():
    failed = group(0, 0, 0, 0, 0, segments=T5)
    assert [leaf.number for leaf in leaves_to_replace(failed)] == [4, 3, 2, 1]  # one has to stay
    pairs = group(0, 0, 0, 0, 0, segments=[(0, 1, 2), (0, 1, 3), (4, 5, 6), (4, 5, 7), (4, 5, 8)])
    assert leaves_to_replace(pairs)[0].number == 4
    parents = group(0, 0, 0, 0, 0, segments=T5, is_parent=[True, False, False, False, True])
    assert [leaf.number for leaf in leaves_to_replace(parents)] == [3, 4, 2, 1]


def test_none_but_failed_leaves_that_count_are_replaced():
    mixed = group(1, 0, 0.9, 0, is_counted=[True, True, True, False])
    assert [leaf.number for leaf in leaves_to_replace(mixed, below=1.0)] == [2, 1]
    assert leaves_to_replace(group(0.0)) == [] == leaves_to_replace(group(0, 0, is_counted=[True, False]))


@given(st.lists(st.lists(st.integers(0, 3), max_size=4).map(tuple), min_size=2, max_size=8), st.randoms())
def test_who_is_replaced_does_not_depend_on_the_order_of_the_leaves(paths, random):
    leaves = [GroupLeaf(str(number), number, 0.0, True, path) for number, path in enumerate(paths)]
    chosen = leaves_to_replace(group_of(leaves))
    random.shuffle(leaves)
    assert leaves_to_replace(group_of(leaves)) == chosen
    assert len(chosen) == len(leaves) - 1


def group_of(leaves):
    from arpo_verl.replay import Group

    return Group("t", "p", tuple(leaves))


def test_a_task_is_its_prompts_tokens_and_what_it_is_graded_by():
    task = task_digest([1, 2, 3], "data", {"answer": "4"})
    assert task == task_digest(np.array([1, 2, 3]), "data", {"answer": "4"})
    others = [
        task_digest([1, 2], "data", {"answer": "4"}),
        task_digest([1, 2, 3], "other", {"answer": "4"}),
        task_digest([1, 2, 3], "data", {"answer": "5"}),
        task_digest([1, 2, 3]),
        task_digest([1, 2, 3], "data", np.array([4.0])),
        task_digest([1, 2, 3], "data", "\ud800"),
    ]
    assert len({task, *others}) == len(others) + 1


def test_the_oldest_row_of_a_task_goes_first_and_the_oldest_of_all_above_the_capacity():
    store = RowStore(per_task=2, capacity=3)
    rows = [row("a", ids=(1, 1, 1)), row("a", ids=(2, 2, 2)), row("b"), row("a", ids=(3, 3, 3)), row("c")]
    store.add(rows[:4])
    assert store.rows == [rows[1], rows[2], rows[3]]
    store.add(rows[4:])
    assert store.rows == [rows[2], rows[3], rows[4]]
    assert store.of_task("a") == [rows[3]] and store.of_task("d") == []
    assert len(store) == store.tasks == 3


def test_a_row_with_the_same_tokens_takes_the_place_of_the_older_one():
    store = RowStore(per_task=8, capacity=8)
    first, other, again = row("a", step=1), row("b", step=1), row("a", step=2)
    store.add([first, other, again])
    assert store.rows == [other, again]


def test_a_row_is_used_up_to_its_age_limit():
    store = RowStore(per_task=8, capacity=8, max_age=10)
    store.add([row("a", step=5)])
    store.forget(15)
    assert len(store) == 1
    store.forget(16)
    assert len(store) == store.tasks == 0


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5)), max_size=40), st.integers(1, 3), st.integers(1, 6)
)
def test_a_store_never_holds_more_than_it_may(added, per_task, capacity):
    store = RowStore(per_task, capacity, max_age=3)
    for step, (task, token) in enumerate(added):
        store.add([row(task, step=step, ids=(token, 9, 9))])
        store.forget(step)
        assert len(store) <= capacity
        assert all(len(store.of_task(name)) <= per_task for name in "abc")
        assert sum(len(store.of_task(name)) for name in "abc") == len(store) == len(store.rows)
        assert store.tasks == len({one.task for one in store.rows})


def test_the_weight_rises_as_spears():
    assert [cosine_weight(t, 200) for t in (0, 50, 100, 200, 1000)] == pytest.approx([0, 0.146447, 0.5, 1, 1], abs=1e-6)
    assert cosine_weight(1, 0) == 1
    assert median([0, 1, 0.25, 0.75, 0.5]) == 0.5 and math.isnan(median([]))


def test_segments_are_counted_from_zero_in_their_order():
    assert renumbered(np.array([4, 4, 9, 2], dtype=np.int32)).tolist() == [0, 0, 1, 2]
    assert renumbered(np.array([], dtype=np.int32)).tolist() == []


BAD_ROWS = {
    "a response of 9 tokens; expected 1 to 8": {"ids": tuple(range(9))},
    "a prompt of 9 tokens": {"prompt_ids": np.arange(9, dtype=np.int32)},
    "mask of the shape (2,)": {"mask": np.array([True, False])},
    "old_log_probs with values that are not finite": {"old_log_probs": np.array([0, math.inf, 0], dtype=np.float32)},
    "the reward nan": {"reward": math.nan, "scores": np.zeros(3, dtype=np.float32)},
    "no token that a policy has sampled": {"mask": np.zeros(3, dtype=bool)},
    "token ids from 1 to 100; expected 0 to 99": {"ids": (5, 100, 5)},
    "token ids from -1 to": {"ids": (5, -1, 5)},
}


@pytest.mark.parametrize("problem", BAD_ROWS)
def test_a_row_that_a_step_can_not_train_on_is_named(problem):
    assert problem_of(row(), LIMITS) is None
    assert problem in str(problem_of(row(**BAD_ROWS[problem]), LIMITS))


def same(one, other) -> bool:
    """Whether two rows have the same values."""
    pairs = [(getattr(one, name), getattr(other, name)) for name in vars(one)]
    return all(np.array_equal(a, b) and a.dtype == b.dtype if isinstance(a, np.ndarray) else a == b for a, b in pairs)


def test_rows_come_back_from_a_file_as_they_were(tmp_path):
    rows = [
        row("a", step=3, ids=(1, 2, 3, 4), turn_rewards=(0.5, 1.0), turns=4, origin="peer"),
        row("b", reward=-0.25, ids=(7,), rollout_log_probs=None, old_log_probs=None),
        row("ö", ids=(8, 9)),
    ]
    path = tmp_path / "rows.npz"
    write_rows(path, State(rows, {"means": [0.5, 1.0]}), "ours")
    state = read_rows(path, "ours")
    assert state.numbers == {"means": [0.5, 1.0]}
    assert len(state.rows) == 3 and all(map(same, state.rows, rows))
    assert [file.name for file in tmp_path.iterdir()] == ["rows.npz"]
    assert path.stat().st_mode & 0o777 == 0o644
    foreign = read_rows(path, None, "them", 9).rows
    assert {(one.origin, one.step) for one in foreign} == {("them", 9)}
    write_rows(path, State(), "ours")
    assert read_rows(path, "ours") == State([], {})


def test_rows_of_another_tokenizer_are_refused_with_what_to_do(tmp_path):
    write_rows(tmp_path / "rows.npz", State([row()]), "theirs")
    with pytest.raises(ReplayFileError, match=r"another tokenizer.*train with the tokenizer.*or remove the file"):
        read_rows(tmp_path / "rows.npz", "ours")


def damaged_files(path):
    """Write a file in every way in which it may be bad, and yield the way's name."""
    write_rows(path, State([row(), row("b", ids=(1, 2))]), "ours")
    whole = path.read_bytes()
    for at in range(1, len(whole), 97):
        path.write_bytes(whole[:at])
        yield f"cut at {at}"
    middle = whole.index(np.array([5, 6, 7], dtype=np.int32).tobytes())
    path.write_bytes(whole[:middle] + b"\xff" + whole[middle + 1 :])
    yield "a bit has flipped"
    for text in (b"", b"not a zip", b"{}"):
        path.write_bytes(text)
        yield f"{text!r}"
    for name, header in {
        "another version": {"version": 2},
        "not an object": [],
        "rows that are not there": {"version": 1, "tokenizer": "ours", "numbers": {}, "rows": [{}]},
        "no numbers": {"version": 1, "tokenizer": "ours", "rows": []},
    }.items():
        np.savez(path, header=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8))
        yield name
    np.savez(path, header=np.array([{"a": 1}], dtype=object))
    yield "pickles"


def test_a_damaged_file_is_refused_in_whichever_way_it_is_bad(tmp_path):
    path = tmp_path / "rows.npz"
    ways = 0
    for way in damaged_files(path):
        ways += 1
        with pytest.raises(ReplayFileError, match=r"remove (it|the file)"):
            read_rows(path, "ours")
            pytest.fail(way)
    assert ways > 15


def test_what_is_no_file_or_too_large_is_not_opened(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(ReplayFileError, match="no regular file"):
        read_rows(tmp_path / "pipe.npz", None)
    with pytest.raises(ReplayFileError, match="FileNotFoundError"):
        read_rows(tmp_path / "missing.npz", None)
    with zipfile.ZipFile(tmp_path / "large.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.npy", b"\0" * 100_000)
    monkeypatch.setattr(files, "LARGEST_BYTES", 10_000)
    with pytest.raises(ReplayFileError, match="holds 100000 bytes; expected at most 10000"):
        read_rows(tmp_path / "large.npz", None)


def test_a_write_that_fails_leaves_the_file_before_it_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "rows.npz"
    write_rows(path, State([row("a")]), "ours")

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(files.np, "savez", full)
    with pytest.raises(OSError, match="no space"):
        write_rows(path, State([row("b")]), "ours")
    assert [file.name for file in tmp_path.iterdir()] == ["rows.npz"]
    assert [one.task for one in read_rows(path, "ours").rows] == ["a"]
