"""Two trees whose advantages are worked out by hand, and the algorithms of the family as sums of terms."""

from fractions import Fraction

import torch

from arpo_verl.advantages import TreeBatch

P = -1
# Root A forks into three at its first result; B calls and does not fork; C answers at once.
T5_IDS = [[0, 0, 1, 2, 2], [0, 0, 1, 3, P], [0, 0, 1, 4, 4], [5, 5, 6, 7, P], [8, 8, P, P, P]]
T5_MASK = [[1, 1, 0, 1, 1], [1, 1, 0, 1, 0], [1, 1, 0, 1, 1], [1, 1, 0, 1, 0], [1, 1, 0, 0, 0]]
T5_REWARDS = [1.0, 0.0, 0.0, 1.0, 0.0]
# Root A forks in two at its first result; the first child forks in two at its second; B is a chain of three turns.
T6_IDS = [[0, 1, 2, 3, 4], [0, 1, 2, 3, 5], [0, 1, 6, P, P], [7, 8, 9, 10, 11]]
T6_MASK = [[1, 0, 1, 0, 1], [1, 0, 1, 0, 1], [1, 0, 1, 0, 0], [1, 0, 1, 0, 1]]
T6_REWARDS = [1.0, 0.0, 0.0, 1.0]


def batch_of(ids, mask, rewards, excluded=(), **more) -> TreeBatch:
    mask = torch.tensor(mask)
    scores = torch.zeros(mask.shape, dtype=torch.float64)
    scores[:, 0] = torch.tensor(rewards, dtype=torch.float64)
    is_excluded = torch.zeros(len(mask), dtype=torch.bool)
    is_excluded[list(excluded)] = True
    return TreeBatch(scores, mask, torch.zeros(len(mask), dtype=torch.long), is_excluded, torch.tensor(ids), **more)


def t5(excluded=(), **more) -> TreeBatch:
    return batch_of(T5_IDS, T5_MASK, T5_REWARDS, excluded, **more)


def t6(**more) -> TreeBatch:
    return batch_of(T6_IDS, T6_MASK, T6_REWARDS, **more)


def turns(advantages: torch.Tensor, batch: TreeBatch) -> list[list[float]]:
    """Return one number for each turn of each row, and check that all tokens of a turn have it."""
    rows = []
    for values, numbers in zip(advantages, batch.turn_ids, strict=True):
        of_row = [values[numbers == turn] for turn in range(1, int(numbers.max()) + 1)]
        assert all((one == one[0]).all() for one in of_row)
        assert (values[numbers == 0] == 0).all()
        rows.append([float(one[0]) for one in of_row])
    return rows


def fractions(text: str) -> list[list[float]]:
    """Read `3/5 | 3/5 ; -2/5` as rows of turns."""
    return [[float(Fraction(turn)) for turn in row.split("|")] for row in text.split(";")]


LEAF = {"unit": "leaf"}
NODE = {"unit": "node"}
GROUP = [{**LEAF, "baseline": "group"}]
GROUP_STD = [{**LEAF, "baseline": "group", "scale": "std"}]
PARENT = [{**NODE, "baseline": "parent"}]
SIBLINGS = [{**NODE, "baseline": "siblings"}]
TREERL = [
    {**NODE, "baseline": "root", "scale": "sqrt_leaves"},
    {**NODE, "baseline": "parent", "scale": "sqrt_leaves"},
]
TREE_GRPO = [*GROUP_STD, {**LEAF, "baseline": "tree", "scale": "std"}]
GIGPO = [*GROUP, {**NODE, "baseline": "children", "discount": 0.5}]
SHRUNK = [{**NODE, "baseline": "shrunk"}]
HARD = [{**NODE, "baseline": "none"}]
PRESETS = {
    "GRPO centred": {"terms": GROUP},
    "ARPO hard": {"terms": HARD, "score": "centred"},
    "parent, leaf_mean (RTMC)": {"terms": PARENT},
    "parent, child_mean (SPO-tree)": {"terms": PARENT, "value": "child_mean"},
    "siblings, child_mean": {"terms": SIBLINGS, "value": "child_mean"},
    "shrunk": {"terms": SHRUNK, "value": "child_mean", "correlation": 0.5},
    "TreeRL": {"terms": TREERL, "score": "loo"},
    "Tree-GRPO (z)": {"terms": TREE_GRPO, "epsilon": 0.0},
    "TreePO group_size": {"terms": [{**LEAF, "baseline": "ancestors_by_size"}]},
    "TreePO average": {"terms": [{**LEAF, "baseline": "ancestors"}]},
    "GiGPO": {"terms": GIGPO},
    "inverse multiplicity": {"terms": GROUP, "multiplicity": "inverse"},
}
