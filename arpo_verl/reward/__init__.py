"""The reward function: `reward.custom_reward_function.{path=pkg://arpo_verl.reward,name=compute_score}`."""

from arpo_verl.reward.score import compute_score

__all__ = ["compute_score"]
