"""Checks before a run starts that it will resume from where it stopped.

verl 0.9.1 (`utils/checkpoint/checkpoint_manager.py`, `find_latest_ckpt_path`) reads the last step's number from a file
and starts at step 1, over the old checkpoints, where the folder of that step is not there.
"""

import os
from pathlib import Path

from omegaconf import DictConfig

from arpo_verl.export.checkpoint_files import TRACKER, find_checkpoint

PREFIX = "global_step_"


def check_resume(config: DictConfig) -> None:
    """Check the checkpoint that a run will go on from, if there is to be one.

    Raises:
        ValueError: it is not there, or not whole.
    """
    trainer = config.trainer
    if trainer.resume_mode == "auto":
        _check_newest(config, Path(trainer.default_local_dir))
    elif trainer.resume_mode == "resume_path":
        folder = Path(str(trainer.resume_from_path))
        if problem := _problem(config, folder):
            raise ValueError(f"trainer.resume_from_path={str(folder)!r}: {problem}: name another step's folder")


def step_to_resume(config: DictConfig) -> Path | None:
    """Return the folder of the step that a run will go on from; None where it begins anew or can't tell."""
    trainer = config.trainer
    if trainer.resume_mode == "resume_path":
        return Path(str(trainer.resume_from_path))
    tracker = Path(trainer.default_local_dir) / TRACKER
    if trainer.resume_mode != "auto" or not tracker.is_file():
        return None
    text = tracker.read_text(encoding="utf-8", errors="replace").strip()
    return tracker.parent / f"{PREFIX}{int(text)}" if text.isascii() and text.isdigit() else None


def _check_newest(config: DictConfig, run: Path) -> None:
    tracker = run / TRACKER
    if not tracker.is_file():
        return  # verl starts at step 1: there is no complete checkpoint
    text = tracker.read_text(encoding="utf-8", errors="replace").strip()
    if not (text.isascii() and text.isdigit()):
        problem: str | None = f"expected the number of a step, and the file says {text[:80]!r}"
    else:
        problem = _problem(config, run / f"{PREFIX}{int(text)}")
    if problem is None:
        return
    newest = _newest_whole(config, run)
    advice = (
        f"write {newest} into the file to go on from step {newest}, the newest that is whole"
        if newest is not None
        else "no step is whole here: remove the file to start anew"
    )
    raise ValueError(
        f"{tracker}: {problem}: {advice}, or set trainer.resume_mode=disable or another trainer.default_local_dir"
    )


def _newest_whole(config: DictConfig, run: Path) -> int | None:
    names = (folder.name.removeprefix(PREFIX) for folder in run.glob(f"{PREFIX}*") if folder.is_dir())
    steps = sorted((int(name) for name in names if name.isascii() and name.isdigit()), reverse=True)
    return next((step for step in steps if _problem(config, run / f"{PREFIX}{step}") is None), None)


def _problem(config: DictConfig, step: Path) -> str | None:
    """Return what is wrong with a step's folder; the shards can be looked at where they are all on this machine."""
    if not (step / "actor").is_dir():
        return f"expected a checkpoint in {step}, and there is no folder {step.name}{os.sep}actor"
    if config.actor_rollout_ref.actor.strategy not in ("fsdp", "fsdp2") or config.trainer.nnodes > 1:
        return None
    try:
        find_checkpoint(step)
    except (ValueError, OSError) as error:
        return f"the checkpoint {step} is not whole ({error})"
    return None
