"""How the manager tells prompts apart that are the same, on the batches that verl's trainer makes."""

import numpy as np
from verl.utils import tensordict_utils

from arpo_verl.integration.worker import Occurrences


def batch(*rows: tuple[int, str], step: int = 1, validate: bool = False):
    """A batch of (index, question) rows as `_next_train_batch` and `_validate` make it."""
    messages = np.empty(len(rows), dtype=object)
    messages[:] = [[{"role": "user", "content": question}] for _, question in rows]
    made = tensordict_utils.get_tensordict(
        {"index": np.array([index for index, _ in rows], dtype=object), "raw_prompt": messages}
    )
    tensordict_utils.assign_non_tensor_data(made, "global_steps", step)
    if validate:
        tensordict_utils.assign_non_tensor_data(made, "validate", True)
    return made


def test_rows_that_are_the_same_prompt_are_numbered_in_their_order():
    rows = [(3, "a"), (4, "b"), (3, "a"), (3, "c"), (3, "a"), (4, "b")]
    assert Occurrences().number(batch(*rows)) == [0, 0, 1, 0, 2, 1]


def test_prompts_that_are_fetched_later_in_a_step_go_on_counting():
    occurrences = Occurrences()
    assert occurrences.number(batch((3, "a"), (4, "b"))) == [0, 0]
    assert occurrences.number(batch((3, "a"), (5, "c"))) == [1, 0]


def test_each_step_and_its_validation_begin_anew_as_in_a_resumed_run():
    occurrences = Occurrences()
    assert occurrences.number(batch((3, "a"), step=1)) == [0]
    assert occurrences.number(batch((3, "a"), step=1, validate=True)) == [0]
    assert occurrences.number(batch((3, "a"), step=2)) == [0]


def test_rows_without_an_index_of_their_own_are_told_apart_by_their_messages():
    assert Occurrences().number(batch((0, "a"), (0, "b"), (0, "c"))) == [0, 0, 0]
