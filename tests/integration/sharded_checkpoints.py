"""`python sharded_checkpoints.py OUT`: checkpoints as verl's FSDP2 engine writes them.

Each is made by verl's own `FSDPCheckpointManager` in as many gloo processes as it has ranks. Beside them stands what
the whole model, before it was sharded, computes for `IDS`: OUT/<name>.logits.pt.
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed
import torch.multiprocessing
from peft import LoraConfig, get_peft_model
from torch.distributed.device_mesh import init_device_mesh
from transformers import AutoModelForCausalLM
from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager
from verl.utils.fsdp_utils import apply_fsdp2

from arpo_verl.tiny_world.model import make_model, make_tokenizer, save

IDS = torch.arange(40).reshape(2, 20) * 7 % 400
LORA = LoraConfig(r=4, lora_alpha=12, target_modules="all-linear", task_type="CAUSAL_LM")

CHECKPOINTS = {
    # name: (mesh, its dimensions, type of the weights, LoRA)
    "one": ((1,), ("fsdp",), torch.float32, False),
    "two": ((2,), ("fsdp",), torch.float32, False),
    "uneven": ((3,), ("fsdp",), torch.float32, False),  # 412 tokens, 96 and 256 features: no multiples of 3
    "replicated": ((2, 2), ("ddp", "fsdp"), torch.float32, False),
    "bfloat16": ((2,), ("fsdp",), torch.bfloat16, False),
    "lora": ((2,), ("fsdp",), torch.float32, True),
    "lora_alone": ((2,), ("fsdp",), torch.float32, True),
}


def trained_model(base: Path, dtype: torch.dtype, has_lora: bool) -> torch.nn.Module:
    """Return the base model with every weight changed, or with a LoRA whose weights are not zero."""
    generator = torch.Generator().manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    if has_lora:
        model = get_peft_model(model, LORA)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.05 * torch.randn(weight.shape, generator=generator).to(dtype)
    return model.eval()


def write(rank: int, out: Path, name: str) -> None:
    """Be one rank of a training that saves a checkpoint."""
    mesh_shape, dimensions, dtype, has_lora = CHECKPOINTS[name]
    world_size = torch.Size(mesh_shape).numel()
    torch.set_num_threads(1)
    store = f"file://{out / name}.store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    model = trained_model(out / "base", dtype, has_lora)
    if rank == 0:
        with torch.no_grad():
            torch.save(model(input_ids=IDS).logits, out / f"{name}.logits.pt")
    mesh = init_device_mesh("cpu", mesh_shape, mesh_dim_names=dimensions)
    apply_fsdp2(model, {"mesh": mesh}, {})
    contents = {"save_contents": ["model"], "load_contents": ["model"], "save_lora_only": name == "lora_alone"}
    manager = FSDPCheckpointManager(model, processing_class=make_tokenizer(), checkpoint_config=contents)
    manager.save_checkpoint(str(out / name / "global_step_3" / "actor"), global_step=3)
    torch.distributed.destroy_process_group()


def main() -> None:
    out = Path(sys.argv[1])
    tokenizer = make_tokenizer()
    save(make_model(tokenizer, seed=0), tokenizer, out / "base")
    for name, (mesh_shape, _, _, _) in CHECKPOINTS.items():
        ranks = torch.Size(mesh_shape).numel()
        # Forked, so that verl is imported once.
        torch.multiprocessing.start_processes(write, (out, name), nprocs=ranks, start_method="fork")
        (out / name / "latest_checkpointed_iteration.txt").write_text("3")
        os.remove(out / f"{name}.store")


if __name__ == "__main__":
    main()
