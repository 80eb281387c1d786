"""The order of a batch's rows: prompts as they were asked for, and whole trees where they are computed together.

verl hands rows to ranks and mini-batches by their place in the batch. It takes prompts in the order in which they have
finished, which no two runs have in common, and spreads a prompt's leaves over the ranks. Over ranks and micro-batches
the order is nothing but that of sums; over mini-batches it says which prompts each update learns from.
"""

import math
from collections.abc import Mapping, Sequence

from verl.utils.seqlen_balancing import get_seqlen_balanced_partitions

from arpo_verl.integration.row_key import prompt_of
from arpo_verl.packing.depth_first import DepthFirst, Tokens


def order_of_prompts(keys: Sequence[str], places: Mapping[str, int]) -> list[int]:
    """Return the rows in the order in which their prompts were asked for, those of a prompt by session and number.

    Args:
        keys: of the rows.
        places: of the prompts; one that is not known, as of rows from elsewhere, stands behind all that are.
    """

    def place(row: int) -> tuple[float, str, int, int]:
        prompt, session, number = keys[row].rsplit("_", 2)
        return places.get(prompt, math.inf), prompt, _number(session), _number(number)

    return sorted(range(len(keys)), key=place)


def _number(text: str) -> int:
    return int(text) if text.isdigit() else -1


def order_by_cells(
    keys: Sequence[str], is_padding: Sequence[bool], rows: Sequence[Tokens], ranks: int, mini_batches: int
) -> list[list[int]] | None:
    """Return the rows of each rank, those of its mini-batches one after the other, with whole trees in each of them.

    A cell is what a rank computes of a mini-batch. Trees are laid over the cells by the tokens that are computed of
    them, and cells of about one size are those of one mini-batch, so that no rank waits long for another. Mini-batches
    follow each other by the first prompt of each.

    Args:
        keys: of the rows; those of one prompt are a tree.
        is_padding: whether a row is one of those with which verl fills a batch up.
        rows: their tokens.
        ranks: data-parallel ranks.
        mini_batches: of a step.

    Returns:
        None where whole trees don't fill the cells: trees of different numbers of leaves, or fewer trees than cells.
    """
    trees: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        if not is_padding[row]:
            trees.setdefault(prompt_of(key), []).append(row)
    cells = ranks * mini_batches
    sizes = {len(members) for members in trees.values()}
    if len(sizes) != 1 or len(keys) % (cells * max(sizes)):
        return None
    leaves = max(sizes)
    padding = [row for row, is_so in enumerate(is_padding) if is_so]
    groups = [*trees.values(), *(padding[start : start + leaves] for start in range(0, len(padding), leaves))]
    work = [sum(DepthFirst.of([rows[row] for row in members]).own) for members in groups]
    parts = get_seqlen_balanced_partitions(work, k_partitions=cells, equal_size=True)
    by_work = sorted(parts, key=lambda part: (sum(work[group] for group in part), min(part)))
    together = [by_work[start : start + ranks] for start in range(0, cells, ranks)]
    in_order = sorted(together, key=lambda parts_of_one: min(map(min, parts_of_one)))
    return [
        [row for mini_batch in in_order for group in sorted(mini_batch[rank]) for row in groups[group]]
        for rank in range(ranks)
    ]
