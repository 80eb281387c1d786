"""The requirement files: every file pinned by its hash, one index, and a resolution for GPUs that can be had."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(
    [*(ROOT / "recipes").glob("requirements*.txt"), *(ROOT / of / "requirements.txt" for of in ("docs", "tests"))]
)
PINNED = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)( ;[^\\]*)?(?P<hashes>( --hash=sha256:[0-9a-f]{64})+)"
)


def logical_lines(file: Path) -> list[str]:
    """Return the lines of a requirement file without comments, continued lines joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", file.read_text()).replace("\\\n", " ")
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def names(file: Path) -> set[str]:
    return {line.partition("==")[0].lower().replace("_", "-") for line in logical_lines(file)}


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_every_requirement_is_one_version_with_hashes_and_nothing_else_is_said(file):
    lines = logical_lines(file)
    assert lines
    assert [line for line in lines if not PINNED.fullmatch(line)] == []


def test_a_package_is_in_one_file_of_an_installation_alone():
    for installed in (("torch", "cpu", "source"), ("gpu", "source", "flash-attn")):
        files = [ROOT / "recipes" / f"requirements-{name}.txt" for name in installed]
        if installed[0] == "torch":
            # Of the CUDA build's dependencies many are those of the CPU path too, in the same versions or not at all.
            files = files[1:]
        every = [name for file in files for name in names(file)]
        assert len(every) == len(set(every))


@pytest.mark.parametrize(
    "stem", ["recipes/requirements-cpu", "recipes/requirements-gpu", "tests/requirements", "docs/requirements"]
)
def test_what_is_wanted_is_resolved(stem):
    wanted = (line.split("#")[0].strip() for line in (ROOT / f"{stem}.in").read_text().splitlines())
    wanted_names = {re.split(r"[\[<>=!~; ]", line)[0].lower().replace("_", "-") for line in wanted if line}
    resolved = names(ROOT / f"{stem}.txt") | names(ROOT / "recipes" / "requirements-torch.txt")
    assert wanted_names - resolved == set()


def test_no_script_and_no_document_sends_pip_to_a_second_index():
    texts = [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").iterdir(),
        *(ROOT / "recipes").iterdir(),
        *(ROOT / "tests").glob("*.sh"),
    ]
    found = [path.name for path in texts if path.is_file() and re.search("extra.index.url", path.read_text(), re.I)]
    assert found == []


def test_both_installations_check_hashes_and_build_nothing_but_what_is_source_alone():
    for script in ("install.sh", "install_gpu.sh"):
        text = (ROOT / "recipes" / script).read_text()
        assert "pinned() { pip --require-hashes" in text
        for line in re.findall(r"(?m)^ *pinned .*", text):
            assert ("--only-binary :all:" in line) != ("--no-build-isolation" in line)


def dry_run(folder: Path) -> subprocess.CompletedProcess[str]:
    variables = dict(os.environ, UV=str(Path(sys.executable).with_name("uv")), PYTHON=sys.executable)
    command = ["bash", str(folder / "recipes" / "install_gpu.sh"), "--dry-run"]
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)
    if "error sending request" in ended.stderr:
        pytest.skip("the package index is not reached from here")
    return ended


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy of the recipes, to change."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    return tmp_path


@pytest.mark.slow
def test_the_resolution_for_gpus_can_be_had(checkout):
    """Needs the package index."""
    ended = dry_run(checkout)
    assert ended.returncode == 0, ended.stderr
    for pin in ("torch==2.11.0", "vllm==0.24.0", "verl==0.9.1", "transformers==5.9.0"):
        assert f" + {pin}" in ended.stderr
    assert not (checkout / ".venv-gpu").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new"),
    [("numpy==2.3.5", "numpy==2.3.999"), ("transformers==5.9.0", "transformers==4.0.0")],
)
def test_a_resolution_that_can_not_be_had_is_noticed(checkout, old, new):
    """Needs the package index."""
    file = checkout / "recipes" / "requirements-gpu.txt"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    assert dry_run(checkout).returncode != 0


@pytest.mark.parametrize(
    ("settings", "words", "message"),
    [
        ({"FLASH_ATTN": "yes"}, [], "FLASH_ATTN=yes; expected 0 or 1"),
        ({}, ["--dryrun"], "got --dryrun; expected nothing or --dry-run"),
        ({"PATH": "/usr/bin:/bin"}, [], "nvcc is not found, which builds flash-attn"),
    ],
)
def test_the_installation_for_gpus_checks_its_words_first(settings, words, message, tmp_path):
    variables = dict(os.environ, PYTHON=sys.executable, VENV=str(tmp_path / "env")) | settings
    command = ["bash", str(ROOT / "recipes" / "install_gpu.sh"), *words]
    ended = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr.strip().startswith(f"install_gpu.sh: {message}")) == (2, True), ended.stderr
    assert not (tmp_path / "env").exists()
