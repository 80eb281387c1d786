"""The estimator under verl's signature (`trainer/ppo/ray_trainer.py`, `compute_advantage`)."""

from typing import Any

import numpy as np
import torch

from arpo_verl.algorithms.arpo import compute_arpo_advantage


def estimate_arpo_advantage(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, config: Any, index: np.ndarray, **_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Soft ARPO advantage. `config` is verl's `algorithm` group; other arguments that verl may add are not needed."""
    return compute_arpo_advantage(
        token_level_rewards, response_mask, index, norm_by_std=config.get("norm_adv_by_std_in_grpo", True)
    )
