"""Writes a checkpoint as a model or adapter, and proves that what was written is what was trained."""

import logging
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError

from arpo_verl.export.check import compare
from arpo_verl.export.checkpoint_files import Checkpoint
from arpo_verl.export.merging import ExportOptions, StoredTypeMerger


def export(checkpoint: Checkpoint, folder: Path, options: ExportOptions) -> Iterator[str]:
    """Write a model or an adapter into an empty folder and compare it with the checkpoint; yield what to report.

    Raises:
        ValueError: the checkpoint can't be exported so.
        RuntimeError: what was written is not what was trained, or a shard can't be read.
        OSError: reading or writing failed.
    """
    # It says of every shard that its mesh has no process group.
    logging.getLogger("torch.distributed.device_mesh").setLevel(logging.ERROR)
    try:
        merger = StoredTypeMerger(checkpoint, folder, options)
    except StrictDataclassError as error:
        raise ValueError(f"{checkpoint.huggingface / 'config.json'} is not valid: {error}") from error
    merger.merge_and_save()
    size = sum(file.stat().st_size for file in folder.iterdir())
    types = ", ".join(sorted(merger.stored_types))
    yield f"stored as {types}, written as {options.dtype or types}: {size / 1e9:.3g} GB"
    yield from compare(checkpoint, folder, options, merger.get_transformers_auto_model_class())
