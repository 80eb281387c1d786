"""Which attention a model computes: its own, or that by runs. Written against transformers 5.9 and verl 0.9.1."""

from typing import Any

import torch
from transformers import AttentionInterface
from verl.utils.ulysses import (
    gather_heads_scatter_seq,
    gather_seq_scatter_heads,
    get_ulysses_sequence_parallel_world_size,
)

from arpo_verl.packing import runs
from arpo_verl.packing.flash import flash_by_runs
from arpo_verl.packing.sdpa import sdpa_by_runs

# Without the names of transformers' own, which models compare and look for parts of.
_DENSE, _VARLEN = "arpo_runs_dense", "arpo_runs_varlen"
BY_RUNS = {"eager": _DENSE, "sdpa": _DENSE, "flash_attention_2": _VARLEN, "flash_attention_3": _VARLEN}
"""The attention by runs that takes the place of each of transformers'."""
DENSE = frozenset(own for own, by_runs in BY_RUNS.items() if by_runs == _DENSE)
"""Those in whose place PyTorch's scaled dot product is computed."""


def varlen_by_runs(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as one of transformers' attention functions, with verl's exchange between the ranks of a sequence.

    Queries, keys and values come and go as in `sdpa_by_runs`. With Ulysses each rank has a part of the tokens and all
    heads; the kernel needs all tokens and some heads (verl, `models/transformers/monkey_patch.py`).
    """
    # Norms of an adapter in float32 leave queries and keys in it, which the kernel does not take.
    states = [state.transpose(1, 2).to(value.dtype) for state in (query, key, value)]
    ranks = get_ulysses_sequence_parallel_world_size()
    if ranks > 1:
        repeats = max(ranks // states[1].size(2), 1)
        states[1:] = [state.repeat_interleave(repeats, 2) for state in states[1:]]
        states = [gather_seq_scatter_heads(state, seq_dim=1, head_dim=2) for state in states]
    output = flash_by_runs(*(state[0] for state in states), **options)[None]
    if ranks > 1:
        output = gather_heads_scatter_seq(output, seq_dim=1, head_dim=2)
    return output, None


def register_attention() -> None:
    """Make the attention by runs known to transformers, which builds no mask for a name that it has no mask for."""
    AttentionInterface.register(_DENSE, sdpa_by_runs)
    AttentionInterface.register(_VARLEN, varlen_by_runs)


class ChosenAttention:
    """Switches a model between its own attention and that by runs."""

    def __init__(self, module: torch.nn.Module) -> None:
        found = [getattr(part, "config", None) for part in module.modules()]
        with_attention = {id(config): config for config in found if hasattr(config, "_attn_implementation")}
        self.configs: list[Any] = list(with_attention.values())
        self._own: list[str] = [config._attn_implementation for config in self.configs]

    @property
    def own(self) -> set[str]:
        """Names of the model's own attention."""
        return set(self._own)

    def use(self, chosen: runs.Runs | None) -> None:
        """Attend by runs from here on; by the model's own attention with None."""
        runs.use(chosen)
        for config, own in zip(self.configs, self._own, strict=True):
            name = own if chosen is None else BY_RUNS[own]
            if config._attn_implementation != name:
                config._attn_implementation = name
