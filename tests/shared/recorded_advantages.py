"""Advantages of seeded random trees under every setting, as they are to stay: `tests/data/advantages.jsonl`.

Written once, by `PYTHONPATH=tests/shared python -m recorded_advantages`, and compared by
`tests/advantages/test_recorded_advantages.py`. Each row's reward lies on one token, so that no sum over tokens depends
on an order; sums over leaves do, by how many numbers a processor adds at a time.
"""

import itertools
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from arpo_verl.algorithms.arpo import compute_arpo_advantage

FILE = Path(__file__).with_name("recorded_advantages.jsonl")
SEEDS = range(12)
WIDTH = 9


def tree(leaves: int, generator: random.Random, ids: Iterator[int]) -> list[list[tuple[int, bool]]]:
    """Return (segment id, whether sampled) of each token of leaves that fork from one another between segments."""
    rows: list[list[tuple[int, bool]]] = []
    for _ in range(leaves):
        row: list[tuple[int, bool]] = []
        if rows and generator.random() < 0.6:
            parent = generator.choice(rows)
            cuts = [0, *(cut for cut in range(1, len(parent)) if parent[cut] != parent[cut - 1])]
            row = parent[: generator.choice(cuts)]
        while len(row) < WIDTH and (not row or generator.random() < 0.6):
            is_sampled = not row or not row[-1][1]
            row = row + [(next(ids), is_sampled)] * generator.randint(1, 3)
        rows.append(row[:WIDTH])
    return rows


def arguments(seed: int) -> dict[str, Any]:
    """Return a batch: prompts of 1 to 6 leaves, rows in random order, some rewards that are not finite, ties."""
    generator = random.Random(seed)
    ids = itertools.count()
    rows = [
        (f"prompt {prompt}", row)
        for prompt, leaves in enumerate([1, generator.randint(2, 6), generator.randint(1, 6)])
        for row in tree(leaves, generator, ids)
    ]
    generator.shuffle(rows)
    rewards = torch.zeros(len(rows), WIDTH, dtype=generator.choice([torch.float32, torch.float64]))
    for number, (_, row) in enumerate(rows):
        values = [0.0, 1.0, generator.random(), -generator.random(), 1e4 * generator.random()]
        rewards[number, len(row) - 1] = generator.choice(values)
        if generator.random() < 0.1:
            rewards[number, 0] = generator.choice([math.nan, math.inf, -math.inf])
    padded = [row + [(-1, False)] * (WIDTH - len(row)) for _, row in rows]
    return {
        "token_level_rewards": rewards,
        "response_mask": torch.tensor([[int(is_sampled) for _, is_sampled in row] for row in padded]),
        "index": [prompt for prompt, _ in rows],
        "segment_ids": torch.tensor([[segment for segment, _ in row] for row in padded]),
        "is_excluded": torch.tensor([generator.random() < 0.25 for _ in rows]),
    }


def cases() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield the settings of each recorded case, by name, and its arguments."""
    for seed, mode, norm_by_std, excludes in itertools.product(SEEDS, ["soft", "hard"], [True, False], [True, False]):
        given = arguments(seed)
        if not excludes:
            del given["is_excluded"]
        yield (
            {"seed": seed, "mode": mode, "norm_by_std": norm_by_std, "excludes": excludes},
            given | {"mode": mode, "norm_by_std": norm_by_std},
        )


def written(advantages: torch.Tensor) -> list[str]:
    """Return the type and each row as text: every value exactly, with the number of times that it comes in a row."""
    return [str(advantages.dtype)] + [
        " ".join(f"{value.hex()}*{len(list(copies))}" for value, copies in itertools.groupby(row))
        for row in advantages.tolist()
    ]


def read(advantages: list[str]) -> torch.Tensor:
    """Return what `written` has made a text of, in double precision; the type of the text is left out."""
    rows = [[part.split("*") for part in row.split()] for row in advantages[1:]]
    return torch.tensor(
        [[float.fromhex(value) for value, copies in row for _ in range(int(copies))] for row in rows],
        dtype=torch.float64,
    )


def main() -> None:
    with FILE.open("w") as file:
        for settings, given in cases():
            advantages = written(compute_arpo_advantage(**given)[0])
            file.write(json.dumps(settings | {"advantages": advantages}) + "\n")


if __name__ == "__main__":
    main()
