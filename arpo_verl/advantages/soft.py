"""ARPO's soft advantage, the paper's default (arXiv 2507.19849, section 3.2): GRPO over the M leaves of a prompt.

Shared prefixes are part of every leaf that has them:

    A_i = (r_i - mean(r)) / (std(r) + epsilon)

Deviations from the paper: none.
"""

import torch

from arpo_verl.advantages.tree.groups import group_relative
from arpo_verl.advantages.tree.tree_batch import TreeBatch


def soft(batch: TreeBatch, norm_adv_by_std_in_grpo: bool = True, epsilon: float = 1e-6) -> torch.Tensor:
    """Return each leaf's reward against those of its prompt's other leaves, at all of its sampled tokens.

    Args:
        batch: the leaves.
        norm_adv_by_std_in_grpo: whether to divide by the group's standard deviation, of n - 1, plus `epsilon`, or not
            (Dr. GRPO, arXiv 2503.20783).
        epsilon: at least 0.

    Returns:
        Shape (batch, response_length).
    """
    return batch.spread(group_relative(batch.rewards, batch.prompt, batch.is_counted, norm_adv_by_std_in_grpo, epsilon))
