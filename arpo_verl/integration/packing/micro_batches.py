"""Which rows of a rank's batch are computed together, decided alike on all ranks. Written against verl 0.9.1."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id

from arpo_verl.packing.depth_first import DepthFirst, Tokens, split


@dataclass(frozen=True)
class MicroBatches:
    """The micro-batches of a rank, and what all ranks compute with them."""

    sets: Sequence[Sequence[int]]
    """Rows of each micro-batch."""
    is_cut_by_tokens: bool
    """By a budget of tokens (verl's `use_dynamic_bsz`), else into verl's equal pieces."""
    row_tokens: int
    """Tokens of the rank's rows."""
    unique_tokens: int
    """Those of them that are no copies of a shared one."""
    computed_tokens: int
    """Those that the rank computes."""
    factor: float
    """Tokens of all ranks' rows for each token that they compute."""


def rows_of(data: TensorDict) -> list[Tokens]:
    """Return the token ids of a batch's rows."""
    return [row.numpy() for row in data["input_ids"].cpu().unbind()]


def micro_batches_of(data: TensorDict, group: Any) -> MicroBatches:
    """Plan a batch's micro-batches.

    Args:
        data: the rank's rows, as verl gives them to its engine.
        group: the data-parallel ranks, all of which call this at once.

    Raises:
        ValueError: a row of any rank is longer than the budget, or a rank has another number of rows than the others.
    """
    rows = rows_of(data)
    walk = DepthFirst.of(rows)
    if tu.get_non_tensor_data(data, "use_dynamic_bsz", True):
        budget = int(data["max_token_len_per_gpu"]) * int(tu.get_non_tensor_data(data, "sp_size", 1))
        most = _largest([max(walk.lengths), len(rows), -len(rows)], group)
        if most[0] > budget or most[1] != -most[2]:
            raise ValueError(
                f"a row of {most[0]} tokens with {budget} tokens a micro-batch, and {-most[2]} to {most[1]} rows on a "
                f"rank; expected no longer row and as many rows on all: raise ppo_max_token_len_per_gpu or "
                f"log_prob_max_token_len_per_gpu"
            )
        sets = split(walk, budget)
        at_least = _largest([len(sets)], group)[0]
        sets = sets if at_least == len(sets) else split(walk, budget, at_least)
    else:
        size = int(data["micro_batch_size_per_gpu"])
        if len(rows) % size:
            raise ValueError(f"{len(rows)} rows in micro-batches of {size}; expected a multiple of it")
        sets = [list(range(start, start + size)) for start in range(0, len(rows), size)]
    return _counted(data, rows, sets, walk, group)


def _counted(
    data: TensorDict, rows: Sequence[Tokens], sets: Sequence[Sequence[int]], walk: DepthFirst, group: Any
) -> MicroBatches:
    walks = [DepthFirst.of([rows[place] for place in members]) for members in sets]
    row_tokens, computed = sum(walk.lengths), sum(sum(one.own) for one in walks)
    totals = torch.tensor([row_tokens, computed], device=get_device_id())
    dist.all_reduce(totals, group=group)
    return MicroBatches(
        sets=sets,
        is_cut_by_tokens=bool(tu.get_non_tensor_data(data, "use_dynamic_bsz", True)),
        row_tokens=row_tokens,
        unique_tokens=walk.unique,
        computed_tokens=computed,
        factor=float(totals[0]) / float(totals[1]),
    )


def _largest(numbers: Sequence[int], group: Any) -> list[int]:
    """Return the largest of each number over the ranks."""
    most = torch.tensor(numbers, device=get_device_id())
    dist.all_reduce(most, op=dist.ReduceOp.MAX, group=group)
    return [int(number) for number in most]


def any_rank(is_so: bool, group: Any) -> bool:
    """Return whether it is so on any of the ranks, all of which call this at once."""
    return bool(_largest([int(is_so)], group)[0])
