"""A first look at whether a model computes packed rows as it computes rows, before any gradient depends on it.

What a model's class and configuration say of its attention (`reasons.py`) may be wrong, as with code that comes with a
model's weights. Two rows that share most are therefore computed both ways, once.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu

from arpo_verl.integration.packing.micro_batches import rows_of
from arpo_verl.packing.depth_first import DepthFirst, Tokens

MOST_DIFFERENCE = 1e-3
"""Nats (or units of a value) by which any token may differ in float32."""
MEAN_DIFFERENCE = 0.05
"""By which the mean token may in half precision, where single ones differ by tenths."""


def reason_of_trial(engine: Any, data: TensorDict) -> str | None:
    """Compute two rows both ways; return why the model can't be packed, or None.

    Args:
        engine: the packing engine.
        data: its rows, two at least that share tokens; a rank whose rows share none computes any two.
    """
    micro_batch = tu.index_select_tensor_dict(data, _closest(rows_of(data)))
    with torch.no_grad():
        _, by_rows = engine.row_step(micro_batch)
        _, packed = engine.packed_step(micro_batch, None, True)
    name = "values" if "values" in by_rows["model_output"] else "log_probs"
    off = _differences(*(output["model_output"][name] for output in (by_rows, packed)))
    is_right = (
        off.max() <= MOST_DIFFERENCE if engine._autocast_dtype == torch.float32 else off.mean() <= MEAN_DIFFERENCE
    )
    if is_right:
        return None
    return (
        f"the model's {name} of packed rows are off by {off.mean():.2g}, and {off.max():.2g} at most, from those of "
        f"the same rows by themselves"
    )


def _closest(rows: Sequence[Tokens]) -> list[int]:
    """Return the two rows that have most tokens in common and most apart, each of them; one row twice where there is
    only one."""
    walk = DepthFirst.of(rows)

    def least_part(pair: tuple[int, int]) -> int:
        common = walk.common[pair[1]]
        return min(common, *(walk.lengths[place] - common for place in pair))

    best = max(list(pairwise(range(len(rows)))) or [(0, 0)], key=least_part)
    return [walk.rows[place] for place in best]


def _differences(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return by how much tokens of rows differ; their last ones have no next token and do not count."""
    pairs = zip(one.unbind(), other.unbind(), strict=True)
    return torch.cat([torch.zeros(1), *((a[:-1].float() - b[:-1].float()).abs().cpu() for a, b in pairs)])
