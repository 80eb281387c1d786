"""Finds a checkpoint of verl's FSDP engines on disk and tells whether it is whole, without torch.

verl 0.9.1 (`utils/checkpoint/fsdp_checkpoint_manager.py`) writes one `model_world_size_W_rank_R.pt` a rank, the
tokenizer and the model's configuration under `huggingface/`, and `fsdp_config.json`; training by RL puts them into
`global_step_N/actor`, the SFT trainer into `global_step_N`.
"""

import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TRACKER = "latest_checkpointed_iteration.txt"
"""Written when a checkpoint is complete (verl, `utils/checkpoint/checkpoint_manager.py`)."""
LORA_FILE = "lora_train_meta.json"
_SHARD = re.compile(r"model_world_size_(\d+)_rank_(\d+)\.pt")
_STEP = re.compile(r"global_step_(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: every rank's shard is there and readable as an archive."""

    folder: Path
    """With the shards."""
    world_size: int

    @property
    def shards(self) -> list[Path]:
        """The shards in the order of their ranks."""
        return [self.folder / f"model_world_size_{self.world_size}_rank_{rank}.pt" for rank in range(self.world_size)]

    @property
    def huggingface(self) -> Path:
        """The folder with configuration and tokenizer."""
        return self.folder / "huggingface"

    def lora_alpha(self) -> int:
        """Return the alpha of its LoRA.

        Raises:
            ValueError: the checkpoint does not say, or says nothing that has an effect.
        """
        path = self.folder / LORA_FILE
        alpha = _read_json(path).get("lora_alpha") if path.is_file() else None
        if not isinstance(alpha, int) or alpha <= 0:
            raise ValueError(
                f"{path}: lora_alpha is {alpha!r}; expected the model.lora_alpha of the training, a positive number: "
                f'write {{"lora_alpha": ...}} into the file'
            )
        return alpha


def find_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint at a path: a step's folder, its `actor`, or a run's folder with the newest step's number.

    Raises:
        ValueError: there is none, it is incomplete, or it is no actor's and no SFT's of an FSDP engine.
        OSError: reading failed.
    """
    folder = _shard_folder(path)
    checkpoint = Checkpoint(folder, _world_size(folder))
    _check_shards(checkpoint)
    _check_huggingface(checkpoint.huggingface)
    return checkpoint


def _shard_folder(path: Path) -> Path:
    if not path.is_dir():
        problem = "is a file" if path.exists() else "does not exist"
        raise ValueError(f"{path} {problem}; expected the folder of a checkpoint, such as .../global_step_20")
    if (path / "fsdp_config.json").exists() or any(_SHARD.fullmatch(file.name) for file in path.iterdir()):
        return path
    if (path / "actor").is_dir():
        return _shard_folder(path / "actor")
    if (path / TRACKER).is_file():
        return _newest_step(path)
    raise ValueError(f"{path} {_what_it_is(path)}; expected a step's folder, its actor, or a run's with {TRACKER}")


def _newest_step(run: Path) -> Path:
    text = (run / TRACKER).read_text().strip()
    step = run / f"global_step_{text}"
    if not step.is_dir():
        raise ValueError(f"{run / TRACKER} says {text!r} and {step} does not exist; expected it: name another step")
    return _shard_folder(step)


def _what_it_is(path: Path) -> str:
    """Say what a folder without shards has, for the usual mistakes."""
    steps = sorted(file.name for file in path.iterdir() if _STEP.fullmatch(file.name))
    if steps:
        return f"has no {TRACKER}, so no complete checkpoint, though {', '.join(steps)}"
    if (path / "critic").is_dir():
        return "has a critic and no actor"
    if any((path / name).exists() for name in _OF_MEGATRON):
        return "seems to be Megatron's, which `python -m verl.model_merger merge --backend megatron` converts"
    if _is_model(path):
        return "is in Hugging Face format already"
    has = "has no shards (model_world_size_W_rank_R.pt)"
    if runs := sorted(tracker.parent.name for tracker in path.glob(f"*/{TRACKER}")):
        return f"{has}, but the folder of a run, {path / runs[0]}: name that one"
    if models := sorted(folder.name for folder in path.iterdir() if folder.is_dir() and _is_model(folder)):
        return f"{has}, but {path / models[0]}, which is in Hugging Face format already"
    return has


_OF_MEGATRON = (
    *("dist_ckpt", "model/dist_ckpt", "transformer_config.json", "ckpt_contents.json"),
    *("optimizer/dist_ckpt", "extra/dist_ckpt", "model/huggingface"),
)
"""Entries of which verl's Megatron engine writes some (`utils/megatron_utils.py`); a folder `model` alone says nothing.
"""


def _is_model(folder: Path) -> bool:
    """Whether a folder is a Hugging Face model or an adapter."""
    return any(folder.glob("*.safetensors")) or any(
        (folder / name).is_file() for name in ("adapter_config.json", "pytorch_model.bin")
    )


def _world_size(folder: Path) -> int:
    found = {match[1] for file in folder.iterdir() if (match := _SHARD.fullmatch(file.name))}
    sizes = sorted(int(size) for size in found)
    config = folder / "fsdp_config.json"
    if not config.is_file():
        raise ValueError(
            f"{config} is missing though there are shards; expected it after a save that was not interrupted: take "
            f"another step"
        )
    world_size = _read_json(config).get("world_size")
    if not isinstance(world_size, int) or world_size < 1:
        raise ValueError(f"{config} has world_size={world_size!r}; expected a positive number")
    if sizes != [world_size]:
        names = ", ".join(f"model_world_size_{size}_*" for size in sizes) or "none"
        raise ValueError(
            f"{folder}: fsdp_config.json says {world_size} ranks and the shards are {names}; expected those of "
            f"{world_size} ranks alone: take another step, or remove what another run has left"
        )
    return world_size


def _check_shards(checkpoint: Checkpoint) -> None:
    missing = [shard.name for shard in checkpoint.shards if not shard.is_file()]
    if missing:
        raise ValueError(
            f"{checkpoint.folder} lacks {', '.join(missing)} of {checkpoint.world_size} shards; expected one a rank: "
            f"copy them from the other nodes, or take another step"
        )
    for shard in checkpoint.shards:
        # torch.save writes a zip archive, whose directory is at its end.
        if not zipfile.is_zipfile(shard):
            raise ValueError(
                f"{shard} ({shard.stat().st_size} bytes) is truncated or no file of torch.save; expected a whole "
                f"shard: copy it again, or take another step"
            )


def _check_huggingface(folder: Path) -> None:
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing; expected the model's configuration: copy it from the base model")
    config = _read_json(path)
    if any("ForTokenClassification" in name for name in config.get("architectures") or []):
        raise ValueError(f"{folder.parent} is a critic's; expected an actor's, a model that generates")
    if not any((folder / name).is_file() for name in ("tokenizer_config.json", "tokenizer.json")):
        raise ValueError(f"{folder} has no tokenizer; expected one: copy it from the base model")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}; expected what verl wrote: take another step") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is a {type(value).__name__}; expected an object")
    return value
