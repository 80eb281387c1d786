"""Where the trainer looks at a batch's trees: their metrics, and what the branching rule may learn from."""

from collections.abc import Mapping, Sequence
from typing import Any

from arpo_verl.diagnostics import ForkPoints, GrownTrees, branching_metrics
from arpo_verl.integration.row_key import prompt_of
from arpo_verl.integration.training.tree_columns import TreeColumns
from arpo_verl.rollout.fork_outcome import ForkOutcome
from arpo_verl.rollout.leaf_record import LeafRecord


def log_branching(
    keys: Sequence[str], records: Mapping[str, LeafRecord], columns: TreeColumns, metrics: dict[str, Any]
) -> list[ForkOutcome]:
    """Add what a batch's trees say to its metrics, and return what became of the decisions about branching.

    Args:
        keys: of the batch's rows.
        records: of its leaves, by key; other rows are in no tree.
        columns: of the rows, in the order of `keys`.
        metrics: the step's, which are changed.
    """
    rows = [row for row, key in enumerate(keys) if key in records]
    rewards = [columns.grown_rewards[row] for row in rows]
    trees = GrownTrees.of([records[keys[row]] for row in rows], [prompt_of(keys[row]) for row in rows], rewards)
    points = ForkPoints.of(trees)
    metrics.update(branching_metrics(trees, points))
    return points.outcomes()
