"""verl's model merger on a checkpoint, with four of its ways changed.

verl 0.9.1 (`model_merger/`) makes every weight bfloat16, writes a LoRA beside a model that does not have it, looks at
the alphabetically first weight alone to learn how the model is sharded, and loads shards so that they can run code;
`StoredTypeMerger` differs in these four.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.placement_types import _StridedShard
from transformers import AutoModelForCausalLM
from verl.model_merger.base_model_merger import ModelMergerConfig
from verl.model_merger.fsdp_model_merger import FSDPModelMerger, merge_non_dtensor_shards

from arpo_verl.export.checkpoint_files import Checkpoint
from arpo_verl.export.lora_weights import BASE, PREFIX, folded, lora_modules, without_lora

_SHARDING: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [_StridedShard]
"""What shards may hold beside what torch allows itself: how weights of two-dimensional meshes are sharded."""


@dataclass(frozen=True)
class ExportOptions:
    """What to write."""

    dtype: str | None
    """Name of torch's; None is the stored one."""
    is_adapter: bool
    base_model: str | None
    trust_remote_code: bool


class StoredTypeMerger(FSDPModelMerger):
    """verl's merger that keeps the weights' type, or takes the one asked for, and puts a LoRA into the model."""

    def __init__(self, checkpoint: Checkpoint, folder: Path, options: ExportOptions) -> None:
        super().__init__(
            ModelMergerConfig(
                operation="merge",
                backend="fsdp",
                local_dir=str(checkpoint.folder),
                target_dir=str(folder),
                hf_model_config_path=str(checkpoint.huggingface),
                trust_remote_code=options.trust_remote_code,
            )
        )
        self._checkpoint, self._folder, self._options = checkpoint, folder, options
        self._dtype: torch.dtype | None = None if options.dtype is None else getattr(torch, options.dtype)
        self.stored_types: set[str] = set()

    def _load_rank_zero_state_dict(self, world_size: int) -> dict[str, Any]:
        """As verl's, whose loading runs code that a checkpoint may hold."""
        return load_shard(self._checkpoint.shards[0])

    def _extract_device_mesh_info(self, state_dict: dict[str, Any], world_size: int) -> tuple[Any, tuple[str, ...]]:
        for weight in state_dict.values():
            if isinstance(weight, DTensor):
                return weight.device_mesh.mesh, weight.device_mesh.mesh_dim_names or ()
        # Nothing is sharded: every rank has the whole model.
        return np.zeros(1), ("fsdp",)

    def _load_and_merge_state_dicts(
        self, world_size: int, total_shards: int, mesh_shape: tuple[int, ...], mesh_dim_names: tuple[str, ...]
    ) -> dict[str, torch.Tensor]:
        """As verl's, without the cast to bfloat16."""
        shards = [load_shard(path) for path in self._checkpoint.shards[:total_shards]]
        for rank, shard in enumerate(shards):
            if shard.keys() != shards[0].keys():
                raise RuntimeError(
                    f"{self._checkpoint.folder}: rank {rank} has other weights than rank 0; take another step"
                )
        weights = {}
        for name in list(shards[0]):
            parts = [shard.pop(name) for shard in shards]
            if isinstance(parts[0], DTensor):
                # The last dimension of the mesh is the sharded one; the others replicate.
                weights[name] = self._merge_by_placement([part.to_local() for part in parts], parts[0].placements[-1])
            else:
                weights[name] = merge_non_dtensor_shards(name, parts)
        self.stored_types = {str(weight.dtype).removeprefix("torch.") for weight in weights.values()}
        return weights

    def save_hf_model_and_tokenizer(self, state_dict: dict[str, torch.Tensor]) -> None:
        """Write the model, or the adapter."""
        modules = lora_modules(state_dict)
        if not modules and self._options.is_adapter:
            raise ValueError(f"{self._checkpoint.folder} has no LoRA; expected one with --adapter: leave it out")
        if self._options.is_adapter:
            self._save_adapter(state_dict)
            return
        weights = with_base(state_dict, self._options)
        plain = without_lora(weights)
        for module in modules:
            # Rounded once, to the type that is written.
            dtype = self._dtype or plain[f"{module}.weight"].dtype
            plain[f"{module}.weight"] = folded(weights, module, self._checkpoint.lora_alpha(), torch.float32).to(dtype)
        plain = {name: self._cast(weight) for name, weight in plain.items()}
        dtypes = {weight.dtype for weight in plain.values() if weight.is_floating_point()}
        super().save_hf_model_and_tokenizer(plain)
        if len(dtypes) == 1:
            _write_dtype(self._folder / "config.json", dtypes.pop())

    def _save_adapter(self, state_dict: dict[str, torch.Tensor]) -> None:
        self._checkpoint.lora_alpha()  # verl would write 0 where it is not known
        adapter = {name: self._cast(weight) for name, weight in state_dict.items() if "lora_" in name}
        nested = Path(self.save_lora_adapter(adapter))
        for file in nested.iterdir():
            file.rename(self._folder / file.name)
        nested.rmdir()
        path = self._folder / "adapter_config.json"
        config = json.loads(path.read_text()) | {"base_model_name_or_path": self._options.base_model}
        path.write_text(json.dumps(config, indent=2))
        # The tokenizer and its chat template; neither weights nor the base's configuration.
        for file in self._checkpoint.huggingface.iterdir():
            if file.suffix in (".json", ".jinja", ".txt", ".model") and file.stem not in _OF_THE_BASE:
                shutil.copy(file, self._folder)

    def _cast(self, weight: torch.Tensor) -> torch.Tensor:
        return weight if self._dtype is None or not weight.is_floating_point() else weight.to(self._dtype)


_OF_THE_BASE = ("config", "generation_config", "model.safetensors.index")


def with_base(weights: dict[str, torch.Tensor], options: ExportOptions) -> dict[str, torch.Tensor]:
    """Return the weights with those of the base model where the checkpoint has the LoRA alone (`save_lora_only`).

    Raises:
        ValueError: they are needed and no base model is named.
        OSError: it can't be loaded.
    """
    if not all("lora_" in name for name in weights):
        return weights
    if options.base_model is None:
        raise ValueError("the checkpoint has the LoRA alone (save_lora_only); expected its base as --base-model")
    base = AutoModelForCausalLM.from_pretrained(
        options.base_model, dtype="auto", trust_remote_code=options.trust_remote_code
    )
    modules = set(lora_modules(weights))
    named = {}
    for name, weight in base.state_dict().items():
        module, _, kind = name.rpartition(".")
        named[f"{PREFIX}{module}{BASE}{kind}" if module in modules else f"{PREFIX}{name}"] = weight
    return named | weights


def load_shard(path: Path) -> dict[str, Any]:
    """Return what a rank has saved, as DTensors that know the whole shape.

    Only tensors and what describes their sharding are loaded (torch's restricted unpickler): a file that asks for
    anything else is refused, so that no code of a strange checkpoint runs.

    Raises:
        RuntimeError: the file can't be read, or holds something else.
    """
    try:
        with torch.serialization.safe_globals(_SHARDING):
            shard: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if strange := _strange_objects(path):
            # torch's own text advises to load it without the restriction.
            raise RuntimeError(
                f"{path} holds more than weights ({', '.join(strange)}), which could run code when it is loaded; "
                f"expected a shard as verl writes it: take the checkpoint from where it was made"
            ) from error
        raise RuntimeError(f"{path} can't be read ({error}); expected a whole shard: copy it again") from error
    if not isinstance(shard, dict) or not all(isinstance(weight, torch.Tensor) for weight in shard.values()):
        raise RuntimeError(f"{path} is no table of weights by their names; expected a shard as verl writes it")
    return shard


def _strange_objects(path: Path) -> list[str]:
    """Return the names of what a file asks for beside weights; none where it is no file of torch's."""
    try:
        with torch.serialization.safe_globals(_SHARDING):
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:
        return []  # whatever a damaged file makes torch raise, its first error says more


def _write_dtype(path: Path, dtype: torch.dtype) -> None:
    """Say the weights' type in the configuration, where verl's merger says bfloat16: `dtype="auto"` goes by it."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["dtype"] = str(dtype).removeprefix("torch.")
    config.pop("torch_dtype", None)
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
