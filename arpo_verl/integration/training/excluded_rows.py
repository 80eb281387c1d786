"""Keeps rows that are left out from the statistics of verl's own estimators, which know of no exclusion."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from arpo_verl.integration.queue import Column, KVBatchMeta, put_columns, read_columns


@contextmanager
def set_apart(
    batch: KVBatchMeta, is_excluded: Sequence[bool] | torch.Tensor, scores: Sequence[torch.Tensor]
) -> Iterator[None]:
    """Inside the block, the queue has each excluded row as a prompt of its own, with 0 for non-finite rewards.

    Its mask is empty already, so that whatever advantage verl computes for it trains nothing.

    Args:
        batch: rows of the queue.
        is_excluded: of each row.
        scores: the token rewards of each row.
    """
    rows = [row for row, is_out in enumerate(is_excluded) if is_out]
    keys = [batch.keys[row] for row in rows]
    if not keys:
        yield
        return
    uids = read_columns(keys, batch.partition_id, ["uid"])["uid"]
    apart: dict[str, Column] = {
        "uid": [f"{key}/excluded" for key in keys],
        "rm_scores": [torch.nan_to_num(scores[row], 0, 0, 0) for row in rows],
    }
    put_columns(keys, batch.partition_id, apart)
    try:
        yield
    finally:
        put_columns(keys, batch.partition_id, {"uid": uids, "rm_scores": [scores[row] for row in rows]})
