"""Random batches of trees, as property tests draw them."""

import itertools
import random

import torch

from arpo_verl.advantages import TreeBatch


def random_tree(chance: random.Random, first_id: int = 0) -> tuple[list[list[int]], list[list[int]]]:
    """Return segment ids and masks of the leaves of one prompt: roots that fork after some of their results."""
    ids = itertools.count(first_id)
    rows: list[tuple[list[int], list[int]]] = []

    def grow(prefix_ids: list[int], prefix_mask: list[int], depth: int) -> None:
        turn = [next(ids)] * chance.randint(1, 3)
        own_ids, own_mask = prefix_ids + turn, prefix_mask + [1] * len(turn)
        if depth == 3 or chance.random() < 0.4:
            rows.append((own_ids, own_mask))
            return
        result = [next(ids)] * chance.randint(1, 2)
        for _ in range(chance.choice([1, 1, 2, 3])):
            grow(own_ids + result, own_mask + [0] * len(result), depth + 1)

    for _ in range(chance.randint(1, 4)):
        grow([], [], 1)
    return [row[0] for row in rows], [row[1] for row in rows]


def random_batch(seed: int, prompts: int = 2, rewards=(0.0, 1.0, 0.25)) -> TreeBatch:
    chance = random.Random(seed)
    ids, masks, prompt = [], [], []
    for number in range(prompts):
        of_tree = random_tree(chance, 1000 * number)
        ids += of_tree[0]
        masks += of_tree[1]
        prompt += [number] * len(of_tree[0])
    width = max(map(len, ids))
    scores = torch.zeros(len(ids), width, dtype=torch.float64)
    scores[:, 0] = torch.tensor([chance.choice(rewards) for _ in ids], dtype=torch.float64)
    return TreeBatch(
        scores,
        torch.tensor([mask + [0] * (width - len(mask)) for mask in masks]),
        torch.tensor(prompt),
        torch.zeros(len(ids), dtype=torch.bool),
        torch.tensor([row + [-1] * (width - len(row)) for row in ids]),
    )


def rows_of(batch: TreeBatch, order: list[int]) -> TreeBatch:
    return TreeBatch(
        batch.token_level_rewards[order],
        batch.response_mask[order],
        batch.prompt[order],
        batch.is_excluded[order],
        batch.segment_ids[order],
    )
