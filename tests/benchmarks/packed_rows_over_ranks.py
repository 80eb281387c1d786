"""What is left to pack where rows lie over ranks and mini-batches: `python tests/benchmarks/packed_rows_over_ranks.py`.

Token counts alone, exact from the seed: 32 prompts of 16 leaves over 4 ranks and 4 mini-batches. The factor is that of
the rank that computes most, by which all others wait: row tokens of a rank in the mean for each token that it computes.
"""

import random
from collections.abc import Sequence

import torch
from packed_update import SHAPES, Row, Shape
from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions

from arpo_verl.integration.packing.row_order import order_by_cells
from arpo_verl.packing.depth_first import DepthFirst, split

RANKS, MINI_BATCHES, PROMPTS, BUDGET = 4, 4, 32, 32768


def factor(rows: Sequence[Row], parts: Sequence[Sequence[int]]) -> float:
    """Return row tokens for each computed one, where a rank's rows are cut into mini-batches in their order."""
    slowest = 0
    for number in range(MINI_BATCHES):
        computed = []
        for part in parts:
            size = len(part) // MINI_BATCHES
            members = [rows[row] for row in part[number * size : (number + 1) * size]]
            sets = split(DepthFirst.of(members), BUDGET)
            computed.append(sum(sum(DepthFirst.of([members[row] for row in one]).own) for one in sets))
        slowest += max(computed)
    return sum(map(len, rows)) / RANKS / slowest


def line(shape: Shape) -> str:
    chance = random.Random(shape.name)
    trees = [shape.tree(chance) for _ in range(PROMPTS)]
    rows = [row for tree in trees for row in tree]
    keys = [f"{prompt}_{leaf}_0" for prompt, tree in enumerate(trees) for leaf in range(len(tree))]
    work = calculate_workload(torch.tensor([len(row) for row in rows]))
    verls = get_seqlen_balanced_partitions(work, k_partitions=RANKS, equal_size=True)
    by_rank = order_by_cells(keys, [False] * len(rows), rows, RANKS, 1)
    by_cell = order_by_cells(keys, [False] * len(rows), rows, RANKS, MINI_BATCHES)
    assert by_rank is not None and by_cell is not None
    best = sum(map(len, rows)) / sum(sum(DepthFirst.of(tree).own) for tree in trees)
    factors = [factor(rows, parts) for parts in (verls, by_rank, by_cell)]
    return f"| {shape.name} | " + " | ".join(f"{one:.2f}" for one in [*factors, best]) + " |"


if __name__ == "__main__":
    print("| trees | verl's order | whole trees over ranks | over ranks and mini-batches | each tree by itself |")
    print("|---|---|---|---|---|")
    for shape in SHAPES[:5]:
        print(line(shape), flush=True)
