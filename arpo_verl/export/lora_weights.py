"""Folds a LoRA into the weights that it belongs to: W + alpha / r · B A, as PEFT computes it without dropout.

Names are those of a `PeftModel` whose adapter is called `default`, as verl 0.9.1 trains it
(`workers/engine/fsdp/transformer_impl.py`, `_build_lora_module`): `base_model.model.<module>.base_layer.weight`,
`.lora_A.default.weight` of shape (r, in), `.lora_B.default.weight` of shape (out, r).
"""

from collections.abc import Mapping

import torch

PREFIX = "base_model.model."
A, B = ".lora_A.default.weight", ".lora_B.default.weight"
BASE = ".base_layer."


def lora_modules(names: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the modules that have a LoRA, without the prefix; empty for a model without one.

    Raises:
        ValueError: a part of a LoRA is not that of a linear layer.
    """
    parts = [name for name in names if "lora_" in name]
    modules = [name.removeprefix(PREFIX).removesuffix(A) for name in parts if name.endswith(A)]
    expected = {f"{PREFIX}{module}{end}" for module in modules for end in (A, B)}
    strange = sorted(set(parts) ^ expected)
    if strange:
        raise ValueError(
            f"{len(strange)} LoRA weights, {strange[0]} for one, do not belong to a linear layer with A and B; "
            f"expected *{A} and *{B}: this kind of LoRA can't be exported"
        )
    return modules


def without_lora(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the base's weights, by the names that they have in the model without LoRA."""
    return {
        name.removeprefix(PREFIX).replace(BASE, "."): weight for name, weight in weights.items() if "lora_" not in name
    }


def folded(weights: Mapping[str, torch.Tensor], module: str, alpha: int, precision: torch.dtype) -> torch.Tensor:
    """Return a module's weight of shape (out, in) with its LoRA in it, computed and returned in a type.

    Raises:
        ValueError: the module has no base weight.
    """
    name = f"{PREFIX}{module}{BASE}weight"
    if name not in weights:
        raise ValueError(f"{module} has a LoRA and no base weight; expected {name}")
    low, high = (weights[f"{PREFIX}{module}{end}"].to(precision) for end in (A, B))
    return weights[name].to(precision) + alpha / low.shape[0] * (high @ low)
