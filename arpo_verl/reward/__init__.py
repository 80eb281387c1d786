"""The reward functions: `reward.custom_reward_function.{path=pkg://arpo_verl.reward,name=compute_score}`.

`name=compute_reference_score` is the reward as the released code computes it, `compute_staged_score` one in two stages
by the training step, `compute_flawed_score` one that penalises right answers with flawed reasoning.
"""

from arpo_verl.reward.flawed import compute_flawed_score
from arpo_verl.reward.reference import compute_reference_score
from arpo_verl.reward.score import compute_score
from arpo_verl.reward.staged import compute_staged_score

__all__ = ["compute_flawed_score", "compute_reference_score", "compute_score", "compute_staged_score"]
