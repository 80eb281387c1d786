"""Takes leaves and tokens out of the loss after their rollout, in the batch that the actor reads.

verl 0.9.1's actor multiplies its losses by the column `response_mask` (`workers/utils/losses.py`, `ppo_loss`) and
divides by the tokens in the column `loss_mask` (`workers/engine/*/transformer_impl.py`, `batch_num_tokens`). Both have
to be empty: an advantage of 0 alone leaves the tokens in the KL and entropy losses and in the denominator. Where verl
divides by leaves (`seq-mean-...`), it is by all of the mini-batch, whatever their masks.
"""

from collections.abc import Sequence

import torch

from arpo_verl.integration.queue import KVBatchMeta, put_columns
from arpo_verl.integration.training.tree_columns import IS_APART


def empty_loss_masks(
    batch: KVBatchMeta, response_masks: Sequence[torch.Tensor], is_left_out: Sequence[bool] | torch.Tensor
) -> None:
    """Write masks of zeros for the rows that are left out; the other rows stay as they are.

    Args:
        batch: rows of the queue.
        response_masks: the mask of each row, shape (response_length,), in the order of the batch.
        is_left_out: of each row.
    """
    keys, masks = [], []
    for key, mask, left_out in zip(batch.keys, response_masks, is_left_out, strict=True):
        if left_out:
            keys.append(key)
            masks.append(torch.zeros_like(mask))
    if keys:
        put_columns(keys, batch.partition_id, {"response_mask": masks, "loss_mask": masks})


def narrow_loss_masks(
    batch: KVBatchMeta, response_masks: Sequence[torch.Tensor], loss_mask: torch.Tensor
) -> tuple[KVBatchMeta, float]:
    """Write masks without the tokens that an advantage leaves out, and return the batch and the share that is left.

    Replayed rows that are in no group's statistics are in none of its trees either, and keep all their tokens.

    Args:
        batch: rows of the queue, with their advantages.
        response_masks: the mask of each row, shape (response_length,), in the order of the batch.
        loss_mask: 0 for tokens to leave out. Shape (batch, longest response or more).
    """
    kept = [
        mask if (tag or {}).get(IS_APART) else mask * (row[: len(mask)] != 0).to(mask)
        for mask, row, tag in zip(response_masks, loss_mask.cpu(), batch.tags, strict=True)
    ]
    before, after = (sum(int(mask.sum()) for mask in masks) for masks in (response_masks, kept))
    put = put_columns(batch.keys, batch.partition_id, {"response_mask": kept, "loss_mask": kept})
    return put, after / max(1, before)
