"""Puts into the queue what a policy loss names and verl does not pass on. Written against verl 0.9.1.

The actor fetches every column that the batch's `fields` name (`KVBatchMeta`), so a column that is put here reaches the
loss.
"""

from collections.abc import Mapping

import torch
from verl.workers.utils.padding import response_to_nested

from arpo_verl.integration.queue import Column, KVBatchMeta, put_columns
from arpo_verl.integration.training.policy_loss import COLUMN, ChosenLoss
from arpo_verl.integration.training.tree_columns import TreeColumns
from arpo_verl.losses import ENTROPY, MINI_BATCH_SUMS, PAST_ENTROPY


def put_loss_columns(
    batch: KVBatchMeta,
    chosen: ChosenLoss,
    columns: TreeColumns,
    by_advantage: Mapping[str, torch.Tensor],
    past_entropy: float,
) -> KVBatchMeta:
    """Put the columns that a loss names into the queue, and return the batch with them.

    Args:
        batch: rows of the queue.
        chosen: the loss.
        columns: of the batch.
        by_advantage: tensors of shape (batch, response_length) that the advantage has returned, by name.
        past_entropy: mean entropy of the steps before, in nats, or NaN.

    Raises:
        ValueError: the loss can't do without something that there is not.
    """
    lengths = torch.nested.as_nested_tensor(list(columns.masks), layout=torch.jagged)
    put: dict[str, Column] = {}
    for name in chosen.columns:
        if (rows := columns.for_loss(name)) is not None:
            put[name] = rows
        elif name == PAST_ENTROPY:
            put[name] = [torch.full(mask.shape, past_entropy) for mask in columns.masks]
        elif name in by_advantage:
            put[name] = response_to_nested(by_advantage[name], lengths)
    chosen.require({*put, ENTROPY, MINI_BATCH_SUMS})
    if not put:
        return batch
    named = {COLUMN.format(name): column for name, column in put.items()}
    return put_columns(batch.keys, batch.partition_id, named)
