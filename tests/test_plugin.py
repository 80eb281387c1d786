"""The plug-in as verl sees it, in fresh interpreters: what is registered, what is not imported, what is loud."""

import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import arpo_verl

HEAVY = ("verl", "ray", "vllm", "torch")
MAY_IMPORT_VERL = (
    *(
        "arpo_verl.doctor.verl_checks",
        "arpo_verl.evaluation.run.verl_agent",
        "arpo_verl.evaluation.run.completions_client",
        "arpo_verl.export",
    ),
    *("arpo_verl.integration", "arpo_verl.losses", "arpo_verl.plugin"),
)
MAY_IMPORT_TORCH = (
    *MAY_IMPORT_VERL,
    "arpo_verl.advantages",
    "arpo_verl.algorithms",
    "arpo_verl.diagnostics",
    "arpo_verl.measure",
    "arpo_verl.packing",
    "arpo_verl.tiny_world",
)


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code from `/`, so that nothing is imported from the source tree by accident."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith("VERL_")} | environment
    return subprocess.run(
        [sys.executable, "-c", code], env=variables, cwd="/", capture_output=True, text=True, timeout=300
    )


def output_of(code: str, **environment: str) -> str:
    result = python(code, **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_only_the_edge_imports_verl_ray_vllm_or_torch():
    names = [module.name for module in pkgutil.walk_packages(arpo_verl.__path__, "arpo_verl.")]
    pure = [name for name in names if not name.startswith(MAY_IMPORT_TORCH)]
    assert "arpo_verl.rollout.scheduler" in pure
    assert "arpo_verl.reward.score" in pure
    code = """
import importlib, sys
for name in {names}:
    importlib.import_module(name)
print([name for name in {heavy} if name in sys.modules])
"""
    assert output_of(code.format(names=[*pure, "arpo_tools"], heavy=HEAVY)) == "[]"
    no_verl = [name for name in names if not name.startswith(MAY_IMPORT_VERL)]
    assert output_of(code.format(names=no_verl, heavy=HEAVY[:3])) == "[]"


@pytest.mark.slow
def test_verl_knows_arpo_after_importing_verl_alone():
    code = """
import verl
from verl.trainer.ppo.core_algos import get_adv_estimator_fn
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.experimental.agent_loop.agent_loop import _agent_loop_registry
from verl.experimental.agent_loop.tool_parser import ToolParser
print(get_adv_estimator_fn("arpo").__module__)
print(*(get_trainer_cls(mode).__name__ for mode in ("sync", "colocate_async", "separate_async")))
print(_agent_loop_registry["tag_agent"]["_target_"])
print(ToolParser.get_tool_parser("arpo_tags", None).__class__.__name__)
"""
    assert output_of(code).splitlines() == [
        "arpo_verl.integration.training.advantage",
        "ArpoPPOTrainerSync ArpoPPOTrainerColocateAsync ArpoPPOTrainerSeparateAsync",
        "arpo_verl.integration.rollout.agent_loop.TreeAgentLoop",
        "TagToolParser",
    ]


@pytest.mark.slow
def test_importing_verl_imports_nothing_heavy_on_our_behalf():
    code = "import sys, verl; print(*sorted(sys.modules))"
    without = set(output_of(code, VERL_USE_EXTERNAL_PLUGINS="none").split())
    extra = set(output_of(code).split()) - without
    assert {name.split(".")[0] for name in extra} <= {"arpo_verl", "arpo_patches", "wrapt", "pkg_resources"}


@pytest.mark.slow
def test_the_cpu_platform_is_used_only_when_asked_for():
    code = "import verl; from verl.utils.device import get_device_name; print(get_device_name())"
    assert output_of(code) == "cuda"
    assert output_of(code, VERL_PLATFORM="cpu") == "cpu"


BROKEN = [
    ("import wrapt; wrapt.register_post_import_hook = None", "TypeError: 'NoneType' object is not callable"),
    ("import sys; sys.modules['arpo_verl.config'] = None", "ModuleNotFoundError: import of arpo_verl.config halted"),
]
"""What is done in every process before verl is imported, and the error that it leads to."""


def broken(folder: Path, code: str) -> dict[str, str]:
    """Return the environment in which every interpreter begins with some code."""
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": str(folder)}


@pytest.mark.slow
@pytest.mark.parametrize(("code", "error"), BROKEN)
def test_a_plug_in_that_fails_is_the_first_line_of_a_run(tmp_path, code, error):
    command = [sys.executable, "-m", "verl.trainer.main_ppo", "algorithm.adv_estimator=arpo", "hydra.run.dir=."]
    environment = os.environ | broken(tmp_path, code)
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    first, *others = run.stderr.splitlines()
    assert run.returncode != 0
    assert first.startswith("ERROR:")
    assert "arpo-verl could not register itself with verl; runs with algorithm.adv_estimator=arpo will end" in first
    assert "see `arpo-verl doctor`" in first
    assert any(line.startswith(error) for line in others)


@pytest.mark.slow
def test_a_part_that_verl_loads_later_and_that_fails_is_logged_even_where_the_import_is_swallowed(tmp_path):
    code = """
import sys
sys.modules["arpo_verl.integration.training.advantage"] = None
try:
    import verl.trainer.ppo.core_algos
except ImportError:
    print("swallowed")
"""
    result = python(code)
    assert result.stdout.strip() == "swallowed"
    assert "arpo-verl could not add itself to verl.trainer.ppo.core_algos" in result.stderr
    assert "import of arpo_verl.integration.training.advantage halted" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("module", ["arpo_verl.plugin", "arpo_verl.integration.cpu.platform"])
def test_the_doctor_names_why_the_plug_in_fails(tmp_path, module):
    command = [str(Path(sys.executable).with_name("arpo-verl")), "doctor", "platform=cpu"]
    code = f"import sys; sys.modules[{module!r}] = None"
    environment = os.environ | broken(tmp_path, code) | {"VERL_PLATFORM": "cpu"}
    found = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, timeout=300)
    [line] = [line for line in found.stdout.splitlines() if " plug-in " in line]
    assert found.returncode == 1
    assert line.startswith("failed")
    assert (
        f"the plug-in fails when verl loads it, which verl hides: ModuleNotFoundError: import of {module} halted"
        in line
    )


@pytest.mark.slow
def test_the_trainer_chooses_our_rollout_for_arpo_and_changes_nothing_for_others():
    code = """
import verl
from omegaconf import OmegaConf
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
PPOTrainerSync.__init__ = lambda self, config: None
for name in ("grpo", "gae"):
    stock = {"algorithm": {"adv_estimator": name},
             "actor_rollout_ref": {"rollout": {"name": "vllm", "agent": {"default_agent_loop": "tool_agent"}}}}
    config = OmegaConf.create(stock)
    get_trainer_cls("sync")(config=config)
    assert config == stock
for arpo in ({}, {"entropy_source": "surprisal"}):
    rollout = {"rollout": {"name": "vllm", "n": 8, "agent": {}}}
    config = OmegaConf.create({"algorithm": {"adv_estimator": "arpo"}, "actor_rollout_ref": rollout, "arpo": arpo})
    trainer = get_trainer_cls("sync")(config=config)
    rollout = config.actor_rollout_ref.rollout
    print(type(trainer).__name__, isinstance(trainer, PPOTrainerSync), rollout.name, rollout.agent)
"""
    manager = "{'agent_loop_manager_class': 'arpo_verl.integration.rollout.worker.ArpoAgentLoopManager'}"
    assert output_of(code).splitlines() == [
        f"ArpoPPOTrainerSync True arpo_vllm {manager}",
        f"ArpoPPOTrainerSync True vllm {manager}",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("plugins", ["auto", "none"])
def test_a_grpo_configuration_passes_through_validation_unchanged(plugins):
    code = """
import verl
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from verl.utils.config import validate_config
with initialize_config_module("verl.trainer.config", version_base=None):
    config = compose("ppo_trainer", overrides=[
        "algorithm.adv_estimator=grpo", "actor_rollout_ref.rollout.name=vllm", "trainer.n_gpus_per_node=1",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=1"])
before = OmegaConf.to_yaml(config)
validate_config(config, use_reference_policy=False, use_critic=False)
print(OmegaConf.to_yaml(config) == before)
"""
    assert output_of(code, VERL_USE_EXTERNAL_PLUGINS=plugins).splitlines()[-1] == "True"
