"""Each patch twice, in fresh interpreters: upstream still needs it, and with it the same thing works."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from arpo_verl.tiny_world.model import make_model, make_tokenizer, save

pytestmark = pytest.mark.slow


def python(code: str, patched: bool) -> subprocess.CompletedProcess[str]:
    """Run code with the patches of a CPU run, or with neither plug-in nor patches."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith("VERL_")}
    variables |= {"VERL_PLATFORM": "cpu"} if patched else {"VERL_USE_EXTERNAL_PLUGINS": "none", "VLLM_PLUGINS": ""}
    return subprocess.run(
        [sys.executable, "-c", code], env=variables, cwd="/", capture_output=True, text=True, timeout=300
    )


def test_torch_refuses_a_backend_string_that_names_the_cpu_twice():
    code = """
import inspect, torch.distributed, verl.utils.distributed as distributed
assert 'f"cpu:gloo,{get_device_name()}:{get_nccl_backend()}"' in inspect.getsource(distributed)
torch.distributed.init_process_group("cpu:gloo,cpu:gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
print(torch.distributed.get_backend())
"""
    assert "Custom backend string" in python(code, patched=False).stderr
    assert python(code, patched=True).stdout.splitlines()[-1] == "cpu:gloo"


def test_a_reference_policy_is_offloaded_to_pinned_memory():
    code = """
import inspect, torch, verl.workers.engine.fsdp.transformer_impl as engine
assert "CPUOffloadPolicy(pin_memory=True)" in inspect.getsource(engine)
print(engine.CPUOffloadPolicy(pin_memory=True).pin_memory)
torch.zeros(1).pin_memory()
"""
    stock = python(code, patched=False)
    assert stock.stdout.splitlines()[-1] == "True"
    assert "none is available" in stock.stderr
    assert python(code, patched=True).stdout.splitlines()[-1] == "False"


def test_verl_looks_for_a_distribution_called_vllm():
    code = "import verl.third_party.vllm as found; print(found.vllm_version)"
    assert "vllm version None not supported" in python(code, patched=False).stderr
    assert python(code, patched=True).stdout.splitlines()[-1] == "0.27.1+cpu"


def test_vllm_replaces_linear_weights_by_packed_copies():
    code = """
import os, torch
if os.environ.get("VERL_PLATFORM") == "cpu":
    from vllm.plugins import load_general_plugins
    load_general_plugins()
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
layer = torch.nn.Linear(64, 64, bias=False)
dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
print(layer.weight.numel())
"""
    assert python(code, patched=False).stdout.splitlines()[-1] == "0"
    assert python(code, patched=True).stdout.splitlines()[-1] == str(64 * 64)


def test_vllm_sets_a_cpu_generator_back_by_an_offset_that_it_does_not_have():
    code = """
import inspect, torch
from vllm.v1.worker.gpu_model_runner import GPUModelRunner
assert "gen.set_offset(gen.get_offset() - 4)" in inspect.getsource(GPUModelRunner._bookkeeping_sync)
torch.Generator(device="cpu").get_offset()
"""
    assert "CPU Generator does not use offset" in python(code, patched=False).stderr


@pytest.mark.engine
def test_a_seed_gives_the_same_tokens_however_the_prefill_is_cut(tmp_path):
    tokenizer = make_tokenizer()
    save(make_model(tokenizer, seed=0), tokenizer, tmp_path)
    script = Path(__file__).with_name("cut_prefill_with_vllm.py")
    variables = os.environ | {"VERL_PLATFORM": "cpu", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(tmp_path)]
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-5000:]
    tokens = json.loads(ended.stdout.splitlines()[-1])
    assert tokens["together"] == tokens["alone"]
    assert len({tuple(row) for row in tokens["alone"]}) == 6, "each seed has its own tokens"


def test_verl_validates_in_the_driver_before_it_starts_ray():
    code = """
import inspect, verl.trainer.main_ppo as main_ppo
source = inspect.getsource(main_ppo.main)
print(0 < source.index("validate_config(") < source.index("run_ppo("), type(main_ppo.validate_config).__name__)
"""
    assert python(code, patched=False).stdout.split() == ["True", "function"]
    assert python(code, patched=True).stdout.split() == ["True", "FunctionWrapper"]


def test_verl_loads_a_critic_with_flash_attention(tmp_path):
    code = f"""
import torch, transformers, verl.utils.model as models
config = transformers.Qwen2Config(
    hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1,
    vocab_size=8, num_labels=1,
)
transformers.Qwen2ForCausalLM(config).save_pretrained({str(tmp_path)!r})
critic = models.load_valuehead_model({str(tmp_path)!r}, torch.float32, config, False)
print(tuple(critic(torch.zeros(1, 3, dtype=torch.long)).logits.shape))
"""
    assert "not a value head model" in python(code, patched=False).stderr
    assert python(code, patched=True).stdout.splitlines()[-1] == "(1, 3, 1)"


def test_verl_makes_every_class_of_a_tool_list_as_a_tool_of_its_own(tmp_path):
    (tmp_path / "own.py").write_text("class Own:\n    name = 'own'\n    async def run(self, text): return text\n")
    (tmp_path / "list.yaml").write_text("tools: [{class_name: own.Own, config: {type: native}}]")
    code = f"""
import sys
sys.path.append({str(tmp_path)!r})
import verl
from verl.tools.tool_registry import load_all_tools
print(load_all_tools({str(tmp_path / "list.yaml")!r}, None)[0].tool_schema.function.name)
"""
    assert "Own() takes no arguments" in python(code, patched=False).stderr
    assert python(code, patched=True).stdout.splitlines()[-1] == "own"
