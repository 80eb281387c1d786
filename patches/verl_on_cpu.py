"""Patches that let verl's trainer run without an accelerator. Nothing happens unless VERL_PLATFORM=cpu."""

from types import ModuleType
from typing import Any

import torch.distributed


def accept_one_backend_per_device() -> None:
    """Let verl's process-group backend string name the CPU once.

    verl 0.9.1 (`utils/distributed.py`, both initialisers) builds `cpu:gloo,<device>:<backend>`, which for the device
    "cpu" is `cpu:gloo,cpu:gloo`; torch (`distributed/distributed_c10d.py`, `BackendConfig`) refuses a device that is
    named twice.
    """
    stock_init = torch.distributed.init_process_group
    if getattr(stock_init, "accepts_repeated_backend", False):
        return

    def init_process_group(backend: str | None = None, *args: Any, **kwargs: Any) -> None:
        if backend is not None:
            backend = ",".join(dict.fromkeys(backend.split(",")))
        stock_init(backend, *args, **kwargs)

    init_process_group.accepts_repeated_backend = True  # type: ignore[attr-defined]
    torch.distributed.init_process_group = init_process_group


def offload_without_pinned_memory(engine: ModuleType) -> None:
    """Let the engine of a reference policy offload its parameters to memory that is not pinned.

    verl 0.9.1 (`workers/engine/fsdp/transformer_impl.py`, `_build_fsdp_module`) offloads a model that only runs
    forward with `CPUOffloadPolicy(pin_memory=True)`; torch can pin memory for an accelerator alone.
    """
    stock_policy = engine.CPUOffloadPolicy
    if getattr(stock_policy, "pins_nothing", False):
        return

    def policy(pin_memory: bool = True) -> Any:
        return stock_policy(pin_memory=False)

    policy.pins_nothing = True  # type: ignore[attr-defined]
    engine.CPUOffloadPolicy = policy  # type: ignore[attr-defined]


def load_value_models_without_flash_attention(models: ModuleType) -> None:
    """Let the critic of PPO load with torch's own attention.

    verl 0.9.1 (`utils/model.py`, `load_valuehead_model`) asks for `flash_attention_2` whatever the model's
    configuration says; flash-attn runs on GPUs alone.
    """
    if getattr(models.load_valuehead_model, "uses_sdpa", False):
        return

    def load_valuehead_model(local_path: str, torch_dtype: Any, model_config: Any, trust_remote_code: bool) -> Any:
        from transformers import AutoModelForTokenClassification

        return AutoModelForTokenClassification.from_pretrained(
            local_path,
            dtype=torch_dtype,
            config=model_config,
            attn_implementation="sdpa",
            trust_remote_code=trust_remote_code,
        )

    load_valuehead_model.uses_sdpa = True  # type: ignore[attr-defined]
    models.load_valuehead_model = load_valuehead_model  # type: ignore[attr-defined]
