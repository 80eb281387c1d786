"""Checks every row of the files that a run is trained on and validated with."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from arpo_verl.data.checks import RowNeeds
from arpo_verl.data.rows import READABLE, CheckedFile, check_file
from arpo_verl.integration.logs import show_warnings
from arpo_verl.integration.settings import arpo_config
from arpo_verl.preflight.tag_check import OUR_REWARD
from arpo_verl.rollout.hints import HintSettings

logger = logging.getLogger(__name__)

DATASETS = ("train_files", "val_files")
"""Keys under `data`."""


def check_datasets(config: DictConfig) -> None:
    """Check the files that are trained on and validated with, and log what may be compared wrongly in them."""
    for key in DATASETS:
        for file, checked in (check_dataset(config, key) or {}).items():
            for warning in checked.warnings:
                show_warnings()
                logger.warning("data.%s=%s: %s", key, file, warning)


def check_dataset(config: DictConfig, key: str) -> dict[str, CheckedFile] | None:
    """Check every row of the files of one of `DATASETS`, and return what is in them; None: they can't be read here.

    Raises:
        ValueError: a file is missing or unreadable, or a row is not what a run needs.
    """
    if config.data.custom_cls.path:
        return None  # the class decides what it reads
    files = config.data[key]
    if not files:
        raise ValueError(f"data.{key}={files!r}; expected the path of a parquet file: set it")
    needs = row_needs(config, key)
    checked = {}
    is_known = True
    for file in [files] if isinstance(files, str) else files:
        path = Path(str(file)).expanduser()
        if "://" in str(file):
            is_known = False
        elif not path.is_file():
            raise ValueError(f"data.{key}={str(path)!r} is not a file: correct the path")
        elif path.suffix not in READABLE:
            raise ValueError(f"data.{key}={str(path)!r}; expected a file in {', '.join(READABLE)}, which verl reads")
        else:
            checked[str(path)] = _checked_file(key, path, needs)
    return checked if is_known else None


def row_needs(config: DictConfig, key: str) -> RowNeeds:
    """Return what a run needs of each row of the files of one of `DATASETS`.

    Information gain needs a gold answer and hints a gold solution, both of the files that are trained on alone.
    """
    arpo, is_trained_on = arpo_config(config), key == "train_files"
    is_own_reward = config.reward.custom_reward_function.path != OUR_REWARD
    return RowNeeds(
        prompt_key=config.data.prompt_key,
        accepts_any_ground_truth=is_own_reward and not (arpo.information_gain and is_trained_on),
        solution_field=HintSettings.of(arpo.hint_kwargs).field if arpo.hints and is_trained_on else None,
    )


def _checked_file(key: str, path: Path, needs: RowNeeds) -> CheckedFile:
    try:
        return check_file(path, needs)
    except ValueError as error:
        raise ValueError(f"data.{key}={error}") from error
