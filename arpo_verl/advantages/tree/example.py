"""A small batch on which an advantage can be tried before anything is trained."""

import torch

from arpo_verl.advantages.tree.arguments import PADDING
from arpo_verl.advantages.tree.tree_batch import TreeBatch


def example_batch(has_entropies: bool = True) -> TreeBatch:
    """Return two prompts of which all is known, or all but the entropies.

    Of the first, a leaf with one call has a fork, and another answers at once; of the second, one leaf is excluded.
    """
    segment_ids = torch.tensor(
        [
            [0, 0, 1, 2, 2],
            [0, 0, 1, 3, PADDING],
            [4, 4, PADDING, PADDING, PADDING],
            [0, 1, 2, PADDING, PADDING],
            [3, PADDING, PADDING, PADDING, PADDING],
            [4, 4, 4, PADDING, PADDING],
        ]
    )
    mask = torch.tensor([[1, 1, 0, 1, 1], [1, 1, 0, 1, 0], [1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [1, 0, 0, 0, 0], [0] * 5])
    rewards = torch.zeros(mask.shape)
    rewards[:, 0] = torch.tensor([1.0, 0.0, 0.5, 1.0, 0.0, 1.0])
    none = float("nan")
    turn_rewards = [[0.5, 1.0], [0.5, 0.0], [0.2, none], [1.0, 1.0], [0.0, none], [none, none]]
    info_gains = [[0.3, none], [0.3, none], [none, none], [0.1, none], [none, none], [none, none]]
    return TreeBatch(
        token_level_rewards=rewards,
        response_mask=mask,
        prompt=torch.tensor([0, 0, 0, 1, 1, 1]),
        is_excluded=torch.tensor([False, False, False, False, False, True]),
        segment_ids=segment_ids,
        parents=torch.tensor([-1, 0, -1, -1, -1, -1]),
        fork_tokens=torch.tensor([0, 3, 0, 0, 0, 0]),
        turn_rewards=torch.tensor(turn_rewards),
        info_gains=torch.tensor(info_gains),
        entropies=mask * 0.5 if has_entropies else None,
        log_probs=mask * -0.5,
    )
