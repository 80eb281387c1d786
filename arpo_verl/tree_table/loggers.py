"""Writes the table to the loggers that verl 0.9.1 has opened (`utils/tracking.py`, `Tracking.logger`)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from arpo_verl.tree_table.markdown import markdown_table
from arpo_verl.tree_table.rows import COLUMNS, TreeRow

TAG = "arpo/trees"
"""The table's name in each of them."""


def to_tensorboard(adapter: Any, step: int, rows: Sequence[TreeRow]) -> None:
    """Add the table as text, in Markdown; `adapter` is verl's `_TensorboardAdapter`."""
    adapter.writer.add_text(TAG, markdown_table(rows), step)
    adapter.writer.flush()


def to_wandb(wandb: Any, step: int, rows: Sequence[TreeRow]) -> None:
    """Log a `wandb.Table`; `wandb` is the package, whose run verl has started.

    The table joins the metrics of the step that W&B has open, this one's or the next one's: with a step of its own it
    would be dropped where the next one has been logged. Its column `step` is right in any case.
    """
    table = wandb.Table(columns=COLUMNS, data=[row.values() for row in rows])
    wandb.log({TAG: table}, commit=False)


WRITERS: Mapping[str, Callable[[Any, int, Sequence[TreeRow]], None]] = {
    "tensorboard": to_tensorboard,
    "wandb": to_wandb,
}
"""By the logger's name in `trainer.logger`."""
