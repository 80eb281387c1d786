"""Segment ids for hard advantages, from where rollouts forked or from their tokens.

The rollout of this package numbers its own segments; these functions are for trees that were grown elsewhere. The ids
are unique in the batch, whatever the prompts, and rows that share an id share all tokens that have it.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from arpo_verl.advantages.tree.arguments import PADDING, as_integers, group_numbers


def segment_ids_from_forks(
    parents: Sequence[int | None] | torch.Tensor | np.ndarray,
    fork_tokens: Sequence[int | None] | torch.Tensor | np.ndarray,
    lengths: Sequence[int] | torch.Tensor | np.ndarray,
    response_length: int | None = None,
) -> torch.Tensor:
    """Return the segment ids of rows of which it is known where they forked from one another.

    Args:
        parents: for each row the row that it forked from, counted from 0 in the batch; None or -1 for a row that was
            started from the prompt. Length batch, in any order.
        fork_tokens: how many of its first tokens each row shares with its parent; None or 0 for one without parent.
        lengths: how many tokens each response has, tool results included. Length batch.
        response_length: width of the result; by default the longest response.

    Returns:
        Ids of shape (batch, response_length), `PADDING` beyond a row's length.

    Raises:
        ValueError: the lists differ in length, a parent is not a row of the batch or descends from its own child, or
            more tokens are shared than one of the two rows has.
    """
    owners = [-1 if parent is None else parent for parent in _values(parents)]
    shared = [0 if tokens is None else tokens for tokens in _values(fork_tokens)]
    rows = len(owners)
    sizes = _lengths(lengths, rows, response_length)
    width = response_length if response_length is not None else max(sizes, default=0)
    if len(shared) != rows:
        raise ValueError(f"got {rows} parents and {len(shared)} fork_tokens; expected one of each a row")
    order = _parents_first(owners)
    owner = np.full((rows, width), PADDING, dtype=np.int64)
    is_cut = np.zeros((rows, width + 1), dtype=bool)
    for row in order:
        parent, fork = owners[row], shared[row]
        _check_fork(row, parent, fork, sizes)
        if fork:
            owner[row, :fork] = owner[parent, :fork]
            # Whoever first had the last shared token may go on alone from here.
            is_cut[owner[row, fork - 1], fork] = True
        owner[row, fork : sizes[row]] = row
    cuts_before = is_cut.cumsum(axis=1)
    ids = owner * (width + 1) + cuts_before[owner, np.arange(width)]
    return torch.from_numpy(np.where(owner == PADDING, PADDING, ids))


def segment_ids_from_tokens(
    token_ids: torch.Tensor, lengths: Sequence[int] | torch.Tensor | np.ndarray, index: Iterable[object] | np.ndarray
) -> torch.Tensor:
    """Return the segment ids of rows of which only the tokens are known: what begins with the same tokens is shared.

    Rows of one prompt share their longest common prefix, also where they were sampled independently and happen to begin
    alike; the policy was in the same state there. Where the forks are known, use `segment_ids_from_forks`.

    Args:
        token_ids: the responses without their prompts, tool results included. Shape (batch, response_length).
        lengths: how many tokens each response has; the rest of the row is padding. Length batch.
        index: the prompt of each row, as for `compute_arpo_advantage`. Length batch.

    Returns:
        Ids of shape (batch, response_length), `PADDING` beyond a row's length.

    Raises:
        ValueError: shapes that do not match, or token ids that are not whole numbers.
    """
    ids = as_integers("token_ids", token_ids)
    if ids.dim() != 2:
        raise ValueError(f"token_ids has the shape {tuple(ids.shape)}; expected (batch, response_length)")
    rows, width = ids.shape
    tokens = ids.cpu().numpy()
    sizes = _lengths(lengths, rows, width)
    parents: list[int | None] = [None] * rows
    fork_tokens = [0] * rows
    prompts: dict[int, list[int]] = defaultdict(list)
    for row, prompt in enumerate(group_numbers(index, rows, torch.device("cpu")).tolist()):
        prompts[prompt].append(row)
    for members in prompts.values():
        # In lexicographic order, by whatever order of tokens, a row's longest common prefix is with a neighbour.
        members.sort(key=lambda row: tokens[row, : sizes[row]].tobytes())
        for before, row in itertools.pairwise(members):
            parents[row], fork_tokens[row] = before, _common_prefix(tokens, sizes, before, row)
    return segment_ids_from_forks(parents, fork_tokens, sizes, width).to(ids.device)


def _values(sequence: Sequence[int | None] | torch.Tensor | np.ndarray) -> Sequence[int | None]:
    """Return the Python values of a list, array or tensor."""
    return sequence.tolist() if isinstance(sequence, (torch.Tensor, np.ndarray)) else sequence


def _lengths(lengths: Sequence[int] | torch.Tensor | np.ndarray, rows: int, width: int | None) -> list[int]:
    sizes: list[int] = as_integers("lengths", lengths).tolist() if len(lengths) else []
    if len(sizes) != rows or not all(isinstance(size, int) for size in sizes):
        raise ValueError(f"got lengths {sizes!r:.80} for {rows} rows; expected one number of tokens a row")
    wrong = [row for row, size in enumerate(sizes) if size < 0 or (width is not None and size > width)]
    if wrong:
        most = "" if width is None else f" and at most response_length={width}"
        raise ValueError(f"lengths[{wrong[0]}] is {sizes[wrong[0]]}; expected at least 0{most}: correct it")
    return sizes


def _parents_first(parents: Sequence[int]) -> list[int]:
    """Return the rows in an order in which each one comes after its parent."""
    children: dict[int, list[int]] = defaultdict(list)
    for row, parent in enumerate(parents):
        if not isinstance(parent, (int, np.integer)) or not -1 <= parent < len(parents) or parent == row:
            raise ValueError(
                f"parents[{row}] is {parent!r}; expected another row of the batch, 0 to {len(parents) - 1}, or None"
            )
        children[int(parent)].append(row)
    order = list(children[-1])
    for row in order:  # grows while it is walked
        order += children[row]
    if len(order) != len(parents):
        left = sorted(set(range(len(parents))) - set(order))
        raise ValueError(f"rows {left} descend from one another; expected trees that begin with a row without parent")
    return order


def _check_fork(row: int, parent: int, fork: int, sizes: Sequence[int]) -> None:
    most = min(sizes[row], sizes[parent]) if parent >= 0 else 0
    if isinstance(fork, (int, np.integer)) and 0 <= fork <= most:
        return
    why = f"what rows {row} and {parent} have both" if parent >= 0 else "the row has no parent"
    raise ValueError(
        f"fork_tokens[{row}] is {fork!r}; expected 0 to {most} ({why}): count the tokens of the response, without the "
        f"prompt's"
    )


def _common_prefix(tokens: np.ndarray, sizes: Sequence[int], one: int, other: int) -> int:
    shorter = min(sizes[one], sizes[other])
    differs = tokens[one, :shorter] != tokens[other, :shorter]
    return int(differs.argmax()) if differs.any() else shorter
