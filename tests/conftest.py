"""What several test files share and takes long to make."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """A tiny world whose model has learned enough to call tools."""
    folder = tmp_path_factory.mktemp("world")
    command = [sys.executable, "-m", "arpo_verl.tiny_world", "--out", str(folder), "--cold-start-steps", "400"]
    # One thread: two that wait for each other take several times as long where the cores are shared.
    command += ["--threads", "1"]
    subprocess.run(command, check=True)
    return folder
