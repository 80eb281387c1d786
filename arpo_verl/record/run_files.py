"""Finds the files of a run: `{step}.jsonl` in the folder of `trainer.rollout_data_dir`, or in `rollouts` in a run's."""

from collections.abc import Iterator
from pathlib import Path

from arpo_verl.record.content import RecordedStep
from arpo_verl.record.reading import read_step

FOLDER = "rollouts"
"""Where the recipes keep the record, in the folder of a run."""


class NotARun(ValueError):
    """What was given has no record of a rollout."""


def step_files(run: Path) -> dict[int, Path]:
    """Return the files of a run by step, in order.

    Args:
        run: the folder of a run, that of its record, or one file.

    Raises:
        NotARun: there is no such thing, or no file of a step in it.
    """
    if run.is_file():
        return {int(run.stem) if run.stem.isdecimal() else 0: run}
    if not run.exists():
        raise NotARun(f"{run} is not there; expected the folder of a run, or a file of its record: correct the path")
    for folder in (run, run / FOLDER):
        found = {int(file.stem): file for file in folder.glob("*.jsonl") if file.stem.isdecimal()}
        if found:
            return dict(sorted(found.items()))
    raise NotARun(
        f"{run} has no record; expected files such as {FOLDER}/1.jsonl: a run writes them with "
        f"trainer.rollout_data_dir=FOLDER, the first when its first step has ended"
    )


def read_steps(run: Path) -> Iterator[RecordedStep]:
    """Yield the steps of a run in order; see `step_files` and `read_step` for what they raise."""
    return (read_step(file) for file in step_files(run).values())
