"""What several test files share and takes long to make."""

import os
import subprocess
import sys
import tempfile
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


@pytest.fixture
def public_folder(monkeypatch):
    """A folder that others may enter, which pytest's own may not be, and a temporary directory in it."""
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder, "temporary")
        temporary.mkdir()
        corpora = Path(folder, "corpora")
        corpora.mkdir()
        for path, mode in ((folder, 0o755), (temporary, 0o777), (corpora, 0o755)):
            os.chmod(path, mode)
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        yield corpora
        os.chmod(corpora, 0o755)
