"""What flash attention's kernels compute, on a CPU and slowly: a causal mask that is aligned at the end, and windows.

Their arguments are checked as the kernels check them. It stands in for a GPU's kernel, whose numbers it does not show.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
import transformers.modeling_flash_attention_utils as flash
from torch.nn.functional import scaled_dot_product_attention


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int, scale: float | None) -> Any:
    queries, keys = len(query), len(key)
    mask = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
    mask = mask.triu(keys - queries - window) if window >= 0 else mask
    groups = query.shape[1] // key.shape[1]
    states = [
        one.transpose(0, 1)[None]
        for one in (query, key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1))
    ]
    return scaled_dot_product_attention(*states, attn_mask=mask, scale=scale)[0].transpose(0, 1)


def varlen(  # noqa: PLR0913 - as the kernel's
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    deterministic: bool = False,
) -> torch.Tensor:
    """Sequences of several lengths, laid end to end."""
    assert causal and not dropout_p and not softcap
    for begins, states, longest in ((cu_seqlens_q, q, max_seqlen_q), (cu_seqlens_k, k, max_seqlen_k)):
        assert begins.dtype == torch.int32 and int(begins[-1]) == len(states)
        assert longest == int(begins.diff().max())
    parts: Iterator[Any] = zip(pairwise(cu_seqlens_q.tolist()), pairwise(cu_seqlens_k.tolist()), strict=True)
    return torch.cat([_attend(q[a:b], k[c:d], v[c:d], window_size[0], softmax_scale) for (a, b), (c, d) in parts])


def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
    """Sequences of one length."""
    return torch.stack([_attend(*one, -1, options.get("softmax_scale")) for one in zip(q, k, v, strict=True)])


def use(module: torch.nn.Module) -> None:
    """Let a model compute as it does with flash attention 2."""
    flash._loaded_implementation = "flash_attention_2"
    flash._flash_fn, flash._flash_varlen_fn, flash._flash_with_kvcache_fn = dense, varlen, None
    flash._process_flash_kwargs_fn = flash._lazy_define_process_function(varlen)
    module.config._attn_implementation = "flash_attention_2"
