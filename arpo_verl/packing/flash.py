"""Attention over a packed sequence by flash attention's kernel for sequences of several lengths: one call a layer."""

from typing import Any

import torch

from arpo_verl.packing.runs import current


def flash_by_runs(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any) -> torch.Tensor:
    """Attend each run to its own path; with fewer queries than keys the kernel's causal mask is aligned at the end.

    The kernel is the one that transformers has loaded with the model, and its arguments are named as transformers names
    them for it (`modeling_flash_attention_utils.py`, `_flash_attention_forward`).

    Args:
        query: shape (packed tokens, heads, dimension).
        key: shape (packed tokens, heads of keys, dimension).
        value: as `key`.
        options: `scaling`, `dropout`, `sliding_window`, `softcap` and `s_aux` as transformers passes them.

    Returns:
        Shape (packed tokens, heads, dimension).
    """
    from transformers.modeling_flash_attention_utils import lazy_import_flash_attention

    runs = current(len(query))
    (_, kernel, *_), arguments = lazy_import_flash_attention(None)
    if not runs.share_nothing:
        key, value = key.index_select(0, runs.keys), value.index_select(0, runs.keys)
    most_queries, most_keys = max(runs.own), max(runs.lengths)
    output = kernel(
        query,
        key,
        value,
        cu_seqlens_q=runs.query_begins,
        cu_seqlens_k=runs.key_begins,
        **arguments(
            query_length=most_queries,
            key_length=most_keys,
            is_causal=True,
            dropout=options.get("dropout", 0.0),
            softmax_scale=options.get("scaling"),
            sliding_window=options.get("sliding_window"),
            softcap=options.get("softcap"),
            s_aux=options.get("s_aux"),
            max_seqlen_q=most_queries,
            max_seqlen_k=most_keys,
        ),
    )
    attended: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return attended
