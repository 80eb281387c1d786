"""Why a batch can't be packed, in words that follow "trees are not packed: ". Written against verl 0.9.1."""

from collections.abc import Iterator
from typing import Any

import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu

from arpo_verl.integration.packing.attention import BY_RUNS, DENSE, ChosenAttention

LAYERS = {"full_attention", "sliding_attention"}
"""Kinds of layers that attention by runs computes."""


def reason_of_batch(data: TensorDict) -> str | None:
    """Return what of a batch packing does not cover; None where it covers all."""
    if not bool(data["input_ids"].offsets().diff().all()):
        return "a row has no token"
    if data["position_ids"].dim() != 2:
        return "positions have several dimensions, as those of images do"
    if any(bool(tu.get_non_tensor_data(data, key, False)) for key in ("distillation_use_topk", "distillation_only")):
        return "distillation reads the logits of rows"
    if "multi_modal_inputs" in data.keys() and any(tu.get(data, "multi_modal_inputs") or []):  # noqa: SIM118
        return "rows have images or other inputs beside tokens"
    if "routed_experts" in data.keys():  # noqa: SIM118 - a TensorDict iterates over rows
        return "routes of experts are replayed row by row"
    if tu.get_non_tensor_data(data, "force_group_size", 1) != 1:
        return "rows have to stay together in groups"
    temperature = data["temperature"]
    if isinstance(temperature, torch.Tensor) and bool((temperature != temperature.flatten()[0]).any()):
        return "rows have different temperatures"
    if not _are_places(data["input_ids"], data["position_ids"]):
        return "the positions of a row's tokens are not their places in it"
    return None


def _are_places(tokens: torch.Tensor, positions: torch.Tensor) -> bool:
    offsets: torch.Tensor = tokens.offsets()  # type: ignore[attr-defined]  # of nested tensors, which have no type
    begins = offsets[:-1].repeat_interleave(offsets.diff())
    return bool((positions.values() == torch.arange(len(begins), device=begins.device) - begins).all())


def reason_of_model(module: torch.nn.Module, attention: ChosenAttention, is_training: bool) -> str | None:
    """Return what of a model packing does not cover; None where it covers all.

    Args:
        module: the model.
        attention: its attention.
        is_training: gradients are asked for, so that dropout drops.
    """
    return next(_reasons_of_model(module, attention, is_training), None)


def _reasons_of_model(module: torch.nn.Module, attention: ChosenAttention, is_training: bool) -> Iterator[str]:
    unknown = sorted(map(str, attention.own - BY_RUNS.keys()))
    if unknown or not attention.configs:
        yield f"attention {', '.join(unknown) or 'of its own'} is none of {', '.join(BY_RUNS)}"
    kinds = {kind for config in attention.configs for kind in getattr(config, "layer_types", None) or ()}
    if kinds - LAYERS:
        yield f"layers of the kind {', '.join(sorted(kinds - LAYERS))} are no attention by runs"
    if not all(getattr(part, "_supports_attention_backend", True) for part in module.modules()):
        yield "the model computes its attention itself"
    if is_training and (
        any(_of(config, "attention_dropout") for config in attention.configs)
        or any(isinstance(part, torch.nn.Dropout) and part.p > 0 for part in module.modules())
    ):
        yield "dropout drops other values for each row"
    if attention.own & DENSE:
        if any(_of(config, "attn_logit_softcapping") for config in attention.configs):
            yield "the scaled dot product has no softcap; flash attention has"
        if any(hasattr(part, "sinks") for part in module.modules()):
            yield "the scaled dot product has no sinks; flash attention 3 has"


def _of(config: Any, name: str) -> Any:
    return getattr(config, name, None)
