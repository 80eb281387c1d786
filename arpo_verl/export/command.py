"""A checkpoint of verl's FSDP engines as a Hugging Face model, by verl's own merger; reloaded and compared.

  arpo-verl export checkpoints/global_step_20 model
  arpo-verl export checkpoints model --dtype bfloat16           # the newest complete step
  arpo-verl export checkpoints/global_step_20 adapter --adapter --base-model Qwen/Qwen2.5-7B-Instruct

Weights keep the type that they are stored in, float32 unless fsdp_config.model_dtype says otherwise; verl's merger
alone would make them bfloat16. LoRA is merged into the base, or written as a PEFT adapter. OUT appears when it has been
compared with the checkpoint; what fails leaves nothing. No GPU is needed; main memory for two copies of the model is.
"""

import argparse
import os
import pickle
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from arpo_verl.export.checkpoint_files import Checkpoint, find_checkpoint

DTYPES = ("float32", "bfloat16", "float16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("checkpoint", type=Path, help=".../global_step_N, .../global_step_N/actor, or the run's folder")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument("--adapter", action="store_true", help="write the LoRA as a PEFT adapter, not merged")
    parser.add_argument(
        "--dtype", choices=DTYPES, help="of the weights (default: as stored; verl's rollout samples from bfloat16)"
    )
    parser.add_argument(
        "--base-model",
        metavar="MODEL",
        help="the model that was trained: named in the adapter, and read where the checkpoint has the LoRA alone",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    parser.add_argument("--trust-remote-code", action="store_true", help="run the checkpoint's own model code")


def run(arguments: argparse.Namespace) -> int:
    """Export, say what was compared, and return the exit code."""
    out = arguments.out.absolute()
    try:
        checkpoint = find_checkpoint(arguments.checkpoint.absolute())
        check_output(out, checkpoint, arguments.overwrite)
        with unfinished(out.resolve()) as folder:  # a link stays one, and what it leads to gets the model
            # Here, because it takes seconds to import verl and torch, and what is checked so far takes none.
            from arpo_verl.export.export import export
            from arpo_verl.export.merging import ExportOptions

            print(f"{checkpoint.folder}: {checkpoint.world_size} shards", flush=True)
            options = ExportOptions(
                arguments.dtype, arguments.adapter, arguments.base_model, arguments.trust_remote_code
            )
            for line in export(checkpoint, folder, options):
                print(line, flush=True)
    except (ValueError, OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written to {arguments.out}")
    return 0


def check_output(out: Path, checkpoint: Checkpoint, may_overwrite: bool) -> None:
    """Raise ValueError if an export must not be written there."""
    inside, folder = out.resolve(), checkpoint.folder.resolve()
    if inside == folder or folder in inside.parents or inside in folder.parents:
        raise ValueError(f"OUT {out} and the checkpoint {checkpoint.folder} are one in the other; choose another OUT")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    is_export = any((out / name).is_file() for name in ("config.json", "adapter_config.json"))
    if not may_overwrite:
        raise ValueError(f"OUT {out} exists: choose another one, or replace it with --overwrite")
    if not is_export:
        raise ValueError(f"OUT {out} is no exported model, so --overwrite does not remove it: choose another one")


@contextmanager
def unfinished(out: Path) -> Iterator[Path]:
    """Give a folder to write to, which takes the place of `out` if the block succeeds and is removed if not."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder, old = (out.with_name(f".{out.name}.{kind}-{os.getpid()}") for kind in ("unfinished", "old"))
    folder.mkdir()
    try:
        yield folder
        if out.exists():
            out.rename(old)
        folder.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if old.exists() and not out.exists():
            old.rename(out)
