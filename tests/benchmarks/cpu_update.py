"""How fast a model is trained on this CPU: fp32 against bf16, torch's usual memory against memory that is kept.

    python tests/benchmarks/cpu_update.py outputs/smollm2-135m

Each setting is a process of its own with one thread, which does one forward and backward pass to warm up and some that
count. Rounds take the settings in turn, so that another load on the machine meets all of them. Tokens per second of CPU
time; an idle core gives nearly as many per second.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

KEPT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "-1",
    "MALLOC_TOP_PAD_": str(64 << 20),
}
"""glibc gives memory back to the system after each large tensor, and takes fresh pages for the next; with these it
keeps them."""
SETTINGS: dict[str, tuple[str, dict[str, str]]] = {
    "fp32": ("float32", {}),
    "fp32, memory kept": ("float32", KEPT),
    "bf16": ("bfloat16", {}),
    "bf16, memory kept": ("bfloat16", KEPT),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures training on this CPU.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256, help="of a row")
    parser.add_argument("--passes", type=int, default=2, help="in a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dtype", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.dtype:
        print(measure(arguments))
        return
    speeds: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for _ in range(arguments.rounds):
        for name, (dtype, environment) in SETTINGS.items():
            done = subprocess.run(
                [sys.executable, *sys.argv, "--dtype", dtype],
                env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                check=True,
            )
            speeds[name].append(float(done.stdout))
    first = statistics.median(speeds["fp32"])
    for name, measured in speeds.items():
        rounds = ", ".join(f"{one:.0f}" for one in measured)
        middle = statistics.median(measured)
        print(f"{name:18} {middle:6.0f} tokens per CPU second, {middle / first:.2f} of fp32 (rounds: {rounds})")


def measure(arguments: argparse.Namespace) -> float:
    """Return the tokens per second of CPU time of forward and backward passes."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=getattr(torch, arguments.dtype))
    ids = torch.randint(model.config.vocab_size, (arguments.rows, arguments.tokens))

    def one_pass() -> None:
        model(input_ids=ids, labels=ids).loss.backward()
        model.zero_grad(set_to_none=False)

    one_pass()
    begun = time.process_time()
    for _ in range(arguments.passes):
        one_pass()
    return float(arguments.passes * ids.numel() / (time.process_time() - begun))


if __name__ == "__main__":
    main()
