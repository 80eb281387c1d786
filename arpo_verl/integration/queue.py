"""The one place that meets TransferQueue (0.1.11), in which verl keeps prompts and leaves until a step has used them.

A row is a prompt or a leaf. It has a key, columns (tensors, texts and other objects) and tags (a small dictionary), and
lies in a partition: `train` or `val`. What TransferQueue does is unchanged; its errors pass through.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import torch
import transfer_queue as tq
from ray.actor import ActorHandle
from tensordict import NonTensorStack, TensorDict
from transfer_queue import KVBatchMeta

__all__ = [
    "QUEUE",
    "Column",
    "KVBatchMeta",
    "Tags",
    "put_columns",
    "put_tags",
    "put_tags_async",
    "queue_actors",
    "read_columns",
    "read_tags",
    "read_tags_async",
    "remove_rows",
    "remove_rows_async",
    "save_queue",
]

QUEUE = "TransferQueue's"
"""What the names of the queue's processes begin with."""

Tags = dict[str, Any]
"""Of one row."""
Column = torch.Tensor | Sequence[torch.Tensor] | Sequence[Any]
"""Of several rows: a nested tensor, or a list with a tensor or another object for each row."""


def read_columns(keys: Sequence[str], partition_id: str, names: Sequence[str] | None) -> dict[str, list[Any]]:
    """Return columns of rows by name, one entry a row, in the order of `keys`; those that nobody has put are absent.

    Args:
        keys: the rows.
        partition_id: where they lie.
        names: of the columns; None for all that there are.
    """
    select = None if names is None else list(names)
    data = tq.kv_batch_get(keys=list(keys), partition_id=partition_id, select_fields=select)
    columns = {name: data[name] for name in data.keys()}  # noqa: SIM118 - a TensorDict iterates over rows
    return {name: list(one.unbind() if isinstance(one, torch.Tensor) else one) for name, one in columns.items()}


def put_columns(
    keys: Sequence[str], partition_id: str, columns: Mapping[str, Column], tags: Sequence[Tags] | None = None
) -> KVBatchMeta:
    """Put columns of rows, over those that are there, and return the batch of these rows, with all their columns.

    Args:
        keys: the rows; those that are not there yet are made.
        partition_id: where they lie.
        columns: by name; a row may be shorter or longer than it was.
        tags: of each row, if they are to be put too; those that are not named stay as they are.
    """
    fields = TensorDict({name: _packed(column) for name, column in columns.items()}, batch_size=len(keys))
    more = {} if tags is None else {"tags": list(tags)}
    return tq.kv_batch_put(keys=list(keys), partition_id=partition_id, fields=fields, **more)


def _packed(column: Column) -> Any:
    if isinstance(column, torch.Tensor):
        return column
    tensors = [one for one in column if isinstance(one, torch.Tensor)]
    if not tensors:
        return NonTensorStack(*column)
    has_numbers = all(one.dim() == 0 for one in tensors)
    return torch.stack(tensors) if has_numbers else torch.nested.as_nested_tensor(tensors, layout=torch.jagged)


def read_tags(partition_id: str) -> dict[str, Tags]:
    """Return the tags of all rows of a partition by key."""
    return _of_partition(tq.kv_list(partition_id), partition_id)


async def read_tags_async(partition_id: str) -> dict[str, Tags]:
    """As `read_tags`, inside an event loop."""
    return _of_partition(await tq.async_kv_list(partition_id), partition_id)


def _of_partition(listed: Mapping[str, dict[str, Tags]] | None, partition_id: str) -> dict[str, Tags]:
    return (listed or {}).get(partition_id, {})  # a partition without rows is not listed


def put_tags(partition_id: str, tags: Mapping[str, Tags]) -> None:
    """Put the tags of rows by key; tags that are not named stay as they are."""
    tq.kv_batch_put(keys=list(tags), partition_id=partition_id, tags=list(tags.values()))


async def put_tags_async(partition_id: str, key: str, tags: Tags) -> None:
    """As `put_tags`, of one row, inside an event loop."""
    await tq.async_kv_put(key=key, partition_id=partition_id, tag=tags)


def remove_rows(keys: Sequence[str], partition_id: str) -> None:
    """Take rows away, with their columns and tags."""
    if keys:
        tq.kv_clear(keys=list(keys), partition_id=partition_id)


async def remove_rows_async(keys: Sequence[str], partition_id: str) -> None:
    """As `remove_rows`, inside an event loop."""
    if keys:
        await tq.async_kv_clear(keys=list(keys), partition_id=partition_id)


def queue_actors() -> dict[str, ActorHandle]:
    """Return the actors behind the queue by name (`interface.py` keeps the storage units to itself)."""
    units = ((tq.interface._TQ_STORAGE or {}).get("SimpleStorage") or {}).values()
    controller = ray.get_actor("TransferQueueController", namespace="transfer_queue")
    return {
        f"{QUEUE} controller": controller,
        **{f"{QUEUE} storage unit {number}": unit for number, unit in enumerate(units)},
    }


def save_queue(folder: Path, step: int) -> None:
    """Write all rows as verl does at the end of a step (`trainer/ppo/v1/trainer_base.py`, `_save_checkpoint`).

    Args:
        folder: written as a whole, or not at all.
        step: the step that has been finished.
    """
    tq.save_checkpoint(str(folder), metadata={"global_steps": step})
