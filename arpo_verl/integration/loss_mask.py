"""Empties the loss masks of leaves that are left out after their rollout, in the batch that the actor reads.

verl 0.9.1's actor multiplies its losses by the column `response_mask` (`workers/utils/losses.py`, `ppo_loss`) and
divides by the tokens in the column `loss_mask` (`workers/engine/*/transformer_impl.py`, `batch_num_tokens`). Both have
to be empty: an advantage of 0 alone leaves the leaf's tokens in the KL and entropy losses and in the denominator.
"""

from collections.abc import Sequence

import torch
import transfer_queue as tq
from tensordict import TensorDict
from transfer_queue import KVBatchMeta


def empty_loss_masks(
    batch: KVBatchMeta, response_masks: Sequence[torch.Tensor], is_left_out: Sequence[bool] | torch.Tensor
) -> None:
    """Write masks of zeros for the rows that are left out; the other rows stay as they are.

    Args:
        batch: rows of the TransferQueue.
        response_masks: the mask of each row, shape (response_length,), in the order of the batch.
        is_left_out: of each row.
    """
    keys, masks = [], []
    for key, mask, left_out in zip(batch.keys, response_masks, is_left_out, strict=True):
        if left_out:
            keys.append(key)
            masks.append(torch.zeros_like(mask))
    if keys:
        empty = torch.nested.as_nested_tensor(masks, layout=torch.jagged)
        fields = TensorDict({"response_mask": empty, "loss_mask": empty.clone()}, batch_size=len(keys))
        tq.kv_batch_put(keys=keys, partition_id=batch.partition_id, fields=fields)
