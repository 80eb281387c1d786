"""Attention over a packed sequence by PyTorch's scaled dot product, run by run."""

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from arpo_verl.packing.runs import Runs, current


def sdpa_by_runs(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as one of transformers' attention functions (`integrations/sdpa_attention.py`), each run to its own path.

    Args:
        module: the layer. Not read.
        query: shape (1, heads, packed tokens, dimension).
        key: shape (1, heads of keys, packed tokens, dimension).
        value: as `key`.
        attention_mask: there is none for a packed sequence. Not read.
        options: `scaling`, `dropout` and `sliding_window` as transformers passes them.

    Returns:
        Shape (1, packed tokens, heads, dimension), and no weights.

    Raises:
        NotImplementedError: softcap or sinks, which the scaled dot product has not.
    """
    unknown = [name for name in ("softcap", "s_aux") if options.get(name) is not None]
    if unknown:
        raise NotImplementedError(f"attention by runs with {unknown}; expected none: set arpo.pack_trees=off")
    runs = current(query.shape[2])
    groups = query.shape[1] // key.shape[1]
    if not runs.share_nothing:
        key, value = key.index_select(2, runs.keys), value.index_select(2, runs.keys)
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    parts = zip(
        torch.split(query, list(runs.own), 2),
        torch.split(key, list(runs.lengths), 2),
        torch.split(value, list(runs.lengths), 2),
        strict=True,
    )
    outputs = [_attend(runs, *one, options) for one in parts]
    return torch.cat(outputs, 2).transpose(1, 2).contiguous(), None


def _attend(
    runs: Runs, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, options: dict[str, Any]
) -> torch.Tensor:
    own, length, window = query.shape[2], key.shape[2], options.get("sliding_window")
    is_within = window is None or window >= length
    # No mask where a run has all its keys, which `is_causal` says, and where its one query sees all of them.
    mask = None if is_within and own in (1, length) else runs.mask(own, length, window, query.device)
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=options.get("dropout", 0.0),
        scale=options.get("scaling"),
        is_causal=mask is None and own > 1,
    )
