"""The room for one weight on its way to vLLM.

On CPU verl copies weights through a bucket in shared memory, and a weight that is larger than the bucket ends the run
at the first transfer, minutes after its start (verl 0.9.1, `workers/rollout/vllm_rollout/bucketed_weight_transfer.py`,
`async_send_weights`). With device handles such a weight goes by itself.
"""

import json
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

logger = logging.getLogger(__name__)

BUCKET = "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes"
MEGABYTE = 1 << 20
LONGEST_HEADER = 100_000_000
"""Of a safetensors file, in bytes, by its format."""


def raise_weight_bucket(config: DictConfig) -> str | None:
    """Raise the bucket of a run on CPU, in place, to its model's largest weight, where it is smaller.

    Nothing is done where the model is not in a local folder: its weights are not known before verl fetches them.

    Returns:
        what was raised, in words, or None if nothing was.
    """
    given = OmegaConf.select(config, BUCKET)
    largest = largest_weight(config) if config.trainer.device == "cpu" and isinstance(given, int) else None
    if largest is None:
        return None
    name, size = largest
    needed = math.ceil(size / MEGABYTE)
    if given >= needed:
        return None
    with open_dict(config):
        OmegaConf.update(config, BUCKET, needed)
    return f"{BUCKET} raised from {given} to {needed} MB, the size of the model's largest weight, {name}"


def log_raised_bucket(config: DictConfig) -> None:
    """Raise the bucket where it is too small, and log it."""
    if raised := raise_weight_bucket(config):
        logger.warning(raised)


def largest_weight(config: DictConfig) -> tuple[str, int] | None:
    """Return the name of the largest weight of the run's model and its bytes, as the actor holds and sends it.

    Shapes are those of the safetensors files; a folder with other weight files is taken to have its embedding as the
    largest. None where there is no readable local folder.
    """
    path = OmegaConf.select(config, "actor_rollout_ref.model.path")
    folder = Path(str(path)).expanduser()
    if path is None or not folder.is_dir():
        return None
    item_size = 2 if "16" in str(OmegaConf.select(config, "actor_rollout_ref.actor.fsdp_config.model_dtype")) else 4
    try:
        sizes = dict(_stored_sizes(folder)) or _embedding_size(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # A damaged file, which transformers names when it loads the model.
        return None
    if not sizes:
        return None
    name = max(sizes, key=lambda one: sizes[one])
    return name, sizes[name] * item_size


def _stored_sizes(folder: Path) -> Iterator[tuple[str, int]]:
    """Yield the weights of safetensors files and how many numbers each has, from the headers alone."""
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if length > LONGEST_HEADER:
                raise ValueError(f"{file} is not a safetensors file")
            header = json.loads(opened.read(length))
        for name, entry in header.items():
            if name != "__metadata__":
                yield name, math.prod(entry["shape"])


def _embedding_size(folder: Path) -> dict[str, int]:
    content: Mapping[str, Any] = json.loads((folder / "config.json").read_text())
    text = content.get("text_config") or content
    return {"the embedding": int(text["vocab_size"]) * int(text["hidden_size"])}
