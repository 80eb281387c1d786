"""Sums over a whole mini-batch for a policy loss, which is called for each micro-batch on its own rank.

verl 0.9.1 takes the gradient of a micro-batch before it computes the next (`workers/engine/*/transformer_impl.py`,
`forward_backward_batch`), and nothing tells a loss that a mini-batch begins or ends. Every rank has the same number of
micro-batches (`same_micro_num_in_dp`), and `batch_num_tokens`, the tokens in the column `loss_mask` of all ranks and
micro-batches, is known in each: the mini-batch is over when that many have been counted.
"""

from typing import Any

import torch


class MiniBatchSums:
    """Adds up what micro-batches of all ranks report. It lives in the worker as long as the loss."""

    def __init__(self) -> None:
        self._tokens_of_whole: int | None = None
        self._tokens = 0
        self._sums: torch.Tensor | None = None
        self._before: torch.Tensor | None = None

    def add(self, own: torch.Tensor, data: Any, dp_group: Any) -> torch.Tensor | None:
        """Add a micro-batch's sums, and return those of the mini-batch before; None in the first.

        Args:
            own: shape (n,), without gradient.
            data: the micro-batch.
            dp_group: the ranks that share a mini-batch, each of which makes the same calls; None for this one alone.
        """
        tokens = data["loss_mask"].values().sum().to(own.device, torch.float64)
        sums = torch.cat([tokens.reshape(1), own.double()])
        if torch.distributed.is_initialized() and torch.distributed.get_world_size(dp_group) > 1:
            torch.distributed.all_reduce(sums, group=dp_group)
        whole = int(data["batch_num_tokens"])
        if whole != self._tokens_of_whole:  # also after one that an error has ended early
            self._tokens_of_whole, self._tokens, self._sums = whole, 0, None
        before = self._before
        self._tokens += int(sums[0])
        self._sums = sums[1:] if self._sums is None else self._sums + sums[1:]
        if self._tokens >= whole:
            if whole:  # what trains nothing says nothing
                self._before = self._sums
            self._tokens_of_whole, self._tokens, self._sums = None, 0, None
        return before
