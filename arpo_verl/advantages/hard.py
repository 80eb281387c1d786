"""ARPO's hard advantage (arXiv 2507.19849, appendix D.1): a shared token gets the mean of its leaves' advantages.

    A_{i,t} = (1/d) sum over the d leaves j that share token t of A_j

With token-mean aggregation and nothing clipped it has the gradient of the soft one: the d copies of a shared token have
the same ratio, and d times the mean is the sum.

Deviations: the released code has no hard mode; here a shared token's mean is taken over its copies in the batch, as the
paper's formula says, and not over the whole group.
"""

import torch

from arpo_verl.advantages.tree.groups import group_relative
from arpo_verl.advantages.tree.shared_tokens import mean_over_leaves
from arpo_verl.advantages.tree.tree_batch import TreeBatch


def hard(batch: TreeBatch, norm_adv_by_std_in_grpo: bool = True, epsilon: float = 1e-6) -> torch.Tensor:
    """Return, at each sampled token, the mean soft advantage of the leaves that share it.

    Args:
        batch: the leaves; `segment_ids` have to be known.
        norm_adv_by_std_in_grpo: as for `arpo_verl.advantages.soft`.
        epsilon: at least 0.

    Returns:
        Shape (batch, response_length).

    Raises:
        ValueError: the batch has no `segment_ids`.
    """
    segment_ids = batch.known_segment_ids()
    relative = group_relative(batch.rewards, batch.prompt, batch.is_counted, norm_adv_by_std_in_grpo, epsilon)
    return mean_over_leaves(relative, batch.is_counted, segment_ids, batch.prompt, batch.dtype).mul_(
        batch.response_mask
    )
