"""Time of the estimator against verl's vectorised GRPO, on one batch of 2048 leaves of 8192 tokens in one run.

Hard mode thrice: with segments as the rollout numbers them; with tokens that have the id of the first leaf that had
them, so that leaves part inside an id; and with an id of its own for every token, the most that there can be to do.

python tests/benchmarks/advantage.py
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from verl.trainer.ppo.core_algos import compute_grpo_vectorized_outcome_advantage

from arpo_verl.algorithms.arpo import compute_arpo_advantage

LEAVES, TOKENS, GROUP = 2048, 8192, 16
RUNS = 15


def batch() -> tuple[torch.Tensor, torch.Tensor, np.ndarray, torch.Tensor, torch.Tensor]:
    """Return rewards, mask, prompts, segments and owners: half of the leaves share their first half with a sibling.

    Owners are the leaves that first had a token.
    """
    generator = torch.Generator().manual_seed(0)
    rewards = torch.zeros(LEAVES, TOKENS)
    rewards[:, -1] = torch.rand(LEAVES, generator=generator)
    # Six calls: 13 segments, sampled and tool results by turns.
    run = torch.arange(TOKENS) * 13 // TOKENS
    mask = (run % 2 == 0).float().expand(LEAVES, TOKENS).clone()
    index = np.array([f"prompt {row // GROUP}" for row in range(LEAVES)], dtype=object)
    number = torch.arange(LEAVES) % GROUP
    owner = torch.where((run < 6) & (number % 2 == 1).unsqueeze(1), (number - 1).unsqueeze(1), number.unsqueeze(1))
    return rewards, mask, index, owner + GROUP * run, owner


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    torch.set_num_threads(1)  # threads that wait for one another measure the machine's other work
    rewards, mask, index, segments, owners = batch()
    tokens = owners * TOKENS + torch.arange(TOKENS)
    candidates = {
        "verl grpo_vectorized": lambda: compute_grpo_vectorized_outcome_advantage(rewards, mask, index),
        "arpo soft": lambda: compute_arpo_advantage(rewards, mask, index),
        "arpo hard": lambda: compute_arpo_advantage(rewards, mask, index, segments, "hard"),
        "arpo hard, owners": lambda: compute_arpo_advantage(rewards, mask, index, owners, "hard"),
    }
    every_token = seconds(lambda: compute_arpo_advantage(rewards, mask, index, tokens, "hard"))
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for run in range(RUNS + 1):
        for name, function in candidates.items():
            elapsed = seconds(function)
            if run:  # the first warms up
                times[name].append(elapsed)
    base = statistics.median(times["verl grpo_vectorized"])
    print(f"{LEAVES} leaves of {TOKENS} tokens, 1 thread, median of {RUNS}")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:22} {median * 1e3:7.1f} ms  {median / base:5.2f} times")
    print(f"{'arpo hard, every token':22} {every_token * 1e3:7.1f} ms  {every_token / base:5.2f} times  (1 run)")


if __name__ == "__main__":
    main()
