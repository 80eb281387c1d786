"""Time of the family's sums of terms against verl's vectorised GRPO, on one batch of 2048 leaves of 8192 tokens.

python tests/benchmarks/term_sums.py
"""

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "shared"))

import torch
from advantage import RUNS, batch, seconds
from tree_examples import PRESETS
from verl.trainer.ppo.core_algos import compute_grpo_vectorized_outcome_advantage

from arpo_verl.advantages import TreeBatch
from arpo_verl.advantages.hard import hard
from arpo_verl.advantages.term_sum import term_sum
from arpo_verl.advantages.tree.arguments import group_numbers


def main() -> None:
    torch.set_num_threads(1)  # threads that wait for one another measure the machine's other work
    rewards, mask, index, segments, _ = batch()

    def trees() -> TreeBatch:
        """Return a new batch each time: what it has computed once it keeps."""
        prompt = group_numbers(index, len(mask), mask.device)
        return TreeBatch(rewards, mask, prompt, torch.zeros(len(mask), dtype=torch.bool), segments)

    candidates = {
        "verl grpo_vectorized": lambda: compute_grpo_vectorized_outcome_advantage(rewards, mask, index),
        "hard": lambda: hard(trees()),
        **{name: lambda settings=settings: term_sum(trees(), **settings) for name, settings in PRESETS.items()},
    }
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for run in range(RUNS + 1):
        for name, function in candidates.items():
            elapsed = seconds(function)
            if run:  # the first warms up
                times[name].append(elapsed)
    base = statistics.median(times["verl grpo_vectorized"])
    print(f"1 thread, median of {RUNS}")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:30} {median * 1e3:7.1f} ms  {median / base:5.2f} times")


if __name__ == "__main__":
    main()
