"""Where verl 0.9.1 keeps a step's checkpoint (`trainer/ppo/v1/trainer_base.py`, `_save_checkpoint`)."""

from pathlib import Path

from omegaconf import DictConfig


def step_folder(config: DictConfig, step: int, is_resumed: bool = False) -> Path:
    """Return the folder of a step's checkpoint, or of the one that a run goes on from."""
    if is_resumed and config.trainer.resume_mode == "resume_path":
        return Path(config.trainer.resume_from_path)
    return Path(config.trainer.default_local_dir) / f"global_step_{step}"
