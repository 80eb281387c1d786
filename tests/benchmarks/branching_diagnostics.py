"""Time of the metrics of branching, and of what a rule learns, on a step of 2048 leaves of 13 segments and 8192 tokens.

python tests/benchmarks/branching_diagnostics.py
"""

import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "shared"))

import torch
from advantage import GROUP, LEAVES, RUNS, TOKENS, batch
from tree_records import records_of
from verl.trainer.ppo.core_algos import compute_grpo_vectorized_outcome_advantage

from arpo_verl.config import ArpoConfig
from arpo_verl.diagnostics import ForkPoints, GrownTrees, branching_metrics
from arpo_verl.rollout.tree import Decision
from arpo_verl.rules import build_rule

SEGMENTS, CALLS = 13, 6
STEP_SECONDS = 60.0
"""A short step for a batch of this size; the shares are of it."""


def step() -> tuple[list, list[int], list[float]]:
    """Return records, prompts and rewards: half of the leaves share three calls with a sibling."""
    chance = random.Random(0)
    rows, decisions = [], {}
    features = {f"feature {number}": chance.random() for number in range(18)} | {"bias": 1.0}
    for row in range(LEAVES):
        number = row % GROUP
        owner = [number - 1 if number % 2 and at < SEGMENTS // 2 else number for at in range(SEGMENTS)]
        rows.append([one + GROUP * at for at, one in enumerate(owner)])
        own = range(CALLS // 2, CALLS) if number % 2 else range(CALLS)
        decisions[row] = [
            Decision(
                int(call == CALLS // 2 - 1),
                "coin",
                entropy=chance.random(),
                fork_token=2 * call + 2,
                fork_probability=0.5,
                features=features | {"turn": float(call), "entropy": chance.random()},
            )
            for call in own
        ]
    mask = [[int(at % 2 == 0) for at in range(SEGMENTS)]] * LEAVES
    rewards = [float(chance.random() < 0.5) for _ in range(LEAVES)]
    return records_of(rows, mask, decisions=decisions), [row // GROUP for row in range(LEAVES)], rewards


def seconds(function: Callable[[], object]) -> float:
    """Return the processor's time, which the machine's other work changes little."""
    start = time.process_time()
    function()
    return time.process_time() - start


def main() -> None:
    torch.set_num_threads(1)  # threads that wait for one another measure the machine's other work
    given = step()
    rule = build_rule(ArpoConfig(rule="expected_variance"))
    outcomes = ForkPoints.of(GrownTrees.of(*given)).outcomes()
    rewards, mask, index, _, _ = batch()

    def metrics() -> None:
        trees = GrownTrees.of(*given)
        branching_metrics(trees, ForkPoints.of(trees))

    candidates = {
        "metrics of branching": metrics,
        f"learning from {len(outcomes)} fork points": lambda: rule.learn(None, outcomes),
        "verl grpo_vectorized": lambda: compute_grpo_vectorized_outcome_advantage(rewards, mask, index),
    }
    print(f"{LEAVES} leaves of {TOKENS} tokens, 1 thread, processor time, median of {RUNS}")
    for name, function in candidates.items():
        function()  # warms up
        median = statistics.median(seconds(function) for _ in range(RUNS))
        print(f"{name:34} {median * 1e3:7.1f} ms  {median / STEP_SECONDS:8.4%} of a step of {STEP_SECONDS:g} s")


if __name__ == "__main__":
    main()
