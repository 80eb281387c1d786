"""The wheel in a clean environment: what a user gets who has never seen this source tree."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """A fresh environment with our wheel, beside links to the installed dependencies instead of a second download."""
    folder = tmp_path_factory.mktemp("clean")
    source = folder / "source"
    ignored = shutil.ignore_patterns(".*", "build", "outputs", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=ignored)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source], check=True)
    subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
    python = folder / "env" / "bin" / "python"
    dependencies = folder / "dependencies"
    dependencies.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(("arpo_verl", "__editable__")):
            (dependencies / entry.name).symlink_to(entry)
    purelib = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    )
    (Path(purelib.strip()) / "dependencies.pth").write_text(f"{dependencies}\n")
    wheel = next(folder.glob("arpo_verl-*.whl"))
    subprocess.run([python, *pip[1:], "install", "--no-deps", wheel], check=True)
    shutil.rmtree(source)
    return python


def output_of(python: Path, code: str) -> list[str]:
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("VERL_", "PYTHONPATH"))}
    variables["ARPO_SEARCH_CORPUS"] = "/corpus.jsonl"
    return subprocess.check_output([python, "-c", code], cwd="/", env=variables, text=True).splitlines()


def test_the_wheel_registers_arpo_when_python_runs_from_the_root(python):
    code = """
import arpo_verl, arpo_tools, arpo_patches, verl
from verl.trainer.ppo.core_algos import get_adv_estimator_fn
print(get_adv_estimator_fn("arpo").__name__)
print(all("site-packages" in package.__file__ for package in (arpo_verl, arpo_tools, arpo_patches)))
"""
    assert output_of(python, code)[-2:] == ["estimate_arpo_advantage", "True"]


def test_the_wheels_preset_finds_its_tools(python):
    code = """
import verl
from hydra import compose, initialize_config_module
from verl.tools.tool_registry import get_tool_class
from omegaconf import OmegaConf
with initialize_config_module("arpo_verl.config", version_base=None):
    config = compose("arpo_trainer", overrides=["platform=cpu"])
tools = OmegaConf.load(config.actor_rollout_ref.rollout.multi_turn.tool_config_path).tools
print(config.trainer.device, *(get_tool_class(tool.class_name).__name__ for tool in tools))
"""
    assert output_of(python, code)[-1] == "cpu PythonTool SearchTool"
