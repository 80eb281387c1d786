"""Sums over a mini-batch: when one ends, and on two ranks whose gradient is that of one."""

import subprocess
import sys
from pathlib import Path

import loss_on_ranks
import pytest
import torch

from arpo_verl.integration.training.mini_batch_sums import MiniBatchSums


def micro_batch(tokens: int, of_whole: int) -> dict:
    mask = torch.nested.as_nested_tensor([torch.ones(tokens, dtype=torch.long)], layout=torch.jagged)
    return {"loss_mask": mask, "batch_num_tokens": of_whole}


def add(sums: MiniBatchSums, value: float, tokens: int, of_whole: int) -> list[float] | None:
    before = sums.add(torch.tensor([value]), micro_batch(tokens, of_whole), None)
    return None if before is None else before.tolist()


def test_a_mini_batch_knows_the_sums_of_the_one_before():
    sums = MiniBatchSums()
    assert [add(sums, value, 2, 4) for value in (1.0, 2.0)] == [None, None]
    assert [add(sums, value, 1, 3) for value in (10.0, 20.0, 30.0)] == [[3.0]] * 3
    assert add(sums, 5.0, 4, 4) == [60.0]
    assert add(sums, 5.0, 4, 4) == [5.0]


def test_micro_batches_without_tokens_and_empty_mini_batches_say_nothing():
    sums = MiniBatchSums()
    add(sums, 7.0, 2, 2)
    assert add(sums, 0.0, 0, 2) == [7.0]  # the last micro-batch of the same mini-batch
    assert add(sums, 0.0, 0, 0) == [7.0]
    assert add(sums, 1.0, 2, 2) == [7.0]
    assert add(sums, 1.0, 2, 2) == [1.0]


def test_a_mini_batch_that_an_error_has_ended_early_does_not_count():
    sums = MiniBatchSums()
    add(sums, 1.0, 2, 4)
    assert add(sums, 2.0, 3, 3) is None
    assert add(sums, 0.0, 3, 3) == [2.0]


@pytest.fixture(scope="module")
def on_ranks(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    subprocess.run([sys.executable, loss_on_ranks.__file__, str(folder)], check=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", loss_on_ranks.LOSSES)
def test_two_ranks_have_the_gradient_and_the_bounds_of_one(on_ranks, name):
    """A real model that FSDP2 shards on gloo: two ranks with a row a micro-batch, one with two rows a micro-batch."""
    one, two = (torch.load(on_ranks / f"{name}-{ranks}.pt") for ranks in (1, 2))
    assert one["bounds"] == two["bounds"]
    if name == "balanced":
        assert one["bounds"][:4] == [0.6, 1.2] * 2 and one["bounds"][4:6] == one["bounds"][6:] != [0.6, 1.2]
    for step, other in zip(one["gradients"], two["gradients"], strict=True):
        largest = max(float(gradient.abs().max()) for gradient in step.values())
        assert step.keys() == other.keys() and largest > 1e-3
        for parameter, gradient in step.items():
            assert torch.allclose(gradient, other[parameter], rtol=0, atol=1e-5 * largest), parameter
