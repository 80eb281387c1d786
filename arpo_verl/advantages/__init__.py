"""One advantage a file: a function of a `TreeBatch`, with torch and without verl.

`arpo_verl/advantages/<name>.py` has the function `<name>`, and `arpo.advantage=<name>` chooses it; nothing else has to
know of it. `arpo.advantage=my_package.module.my_advantage` chooses one that lies elsewhere.
"""

from collections.abc import Mapping
from typing import Protocol

import torch

from arpo_verl.advantages.tree.tree_batch import TreeBatch
from arpo_verl.named_parts import ADVANTAGES

__all__ = ["ADVANTAGES", "Advantage", "TreeBatch"]


class Advantage(Protocol):
    """What decides how much each sampled token is credited with."""

    def __call__(
        self, batch: TreeBatch, **settings: object
    ) -> torch.Tensor | tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """Return an advantage for each token, shape (batch, response_length); what it is where the mask is 0 is unused.

        A dictionary beside it, of tensors of the same shape by name, reaches a loss that has parameters so called.

        Args:
            batch: the leaves and their trees, from the rollout and from before the update.
            **settings: parameters of its own: from `arpo.advantage_kwargs`, or else, where it has the name of a key of
                verl's `algorithm` group (`norm_adv_by_std_in_grpo`, `gamma`, `lam` ...), from there.
        """
