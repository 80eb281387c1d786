"""A replay buffer for small runs: verl's own, asked more often.

verl 0.9.1 (`trainer/ppo/v1/replay_buffer.py`) looks for finished prompts every 2 s, longer than the whole generation
of a tiny model. Chosen by verl's own key `trainer.v1.sampler.custom_sampler.{path,name}`; verl then passes no
group-filtering options, so use it only without.
"""

from typing import Any

from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer


class PromptReplayBuffer(ReplayBuffer):
    """Looks every 0.1 s."""

    def __init__(self, **kwargs: Any) -> None:
        if kwargs["trainer_mode"] != "sync":
            raise ValueError(
                f"trainer.v1.trainer_mode={kwargs['trainer_mode']!r} with PromptReplayBuffer; expected 'sync': set "
                f"trainer.v1.sampler.custom_sampler.path=null, so that verl takes its own buffer for that mode"
            )
        super().__init__(poll_interval=0.1, **kwargs)
