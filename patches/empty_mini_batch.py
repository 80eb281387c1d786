"""Patch by which a mini-batch without leaves to train on has the loss 0, instead of one that is not a number."""

import functools
from types import ModuleType
from typing import Any


def divide_by_one_token_at_least(losses: ModuleType) -> None:
    """Wrap verl's policy loss; may be called again.

    verl 0.9.1's engines divide the sums of `loss_agg_mode=token-mean` by the tokens in the mini-batch's loss masks
    (`trainer/ppo/core_algos.py`, `agg_loss`). Where all masks are empty that is 0 / 0: the loss, and with it the step's
    mean in the log, is NaN. Divided by 1 it is 0, as in the other modes.
    """
    stock = losses.ppo_loss
    if hasattr(stock, "__wrapped__"):
        return

    @functools.wraps(stock)
    def ppo_loss(config: Any, model_output: Any, data: Any, *args: Any, **kwargs: Any) -> Any:
        from verl.utils.tensordict_utils import assign_non_tensor

        if data["batch_num_tokens"] == 0:
            assign_non_tensor(data, batch_num_tokens=1)
        return stock(config, model_output, data, *args, **kwargs)

    losses.ppo_loss = ppo_loss  # type: ignore[attr-defined]
