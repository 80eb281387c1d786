"""The reward functions: `reward.custom_reward_function.{path=pkg://arpo_verl.reward,name=compute_score}`.

`name=compute_reference_score` is the reward as the released code computes it.
"""

from arpo_verl.reward.reference import compute_reference_score
from arpo_verl.reward.score import compute_score

__all__ = ["compute_reference_score", "compute_score"]
