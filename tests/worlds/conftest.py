"""A small world of real facts in each style, made once."""

from pathlib import Path

import pytest

from arpo_verl.worlds.atlas.__main__ import main

SIZES = ["--questions", "120", "--validation", "60", "--traces", "120"]


@pytest.fixture(scope="session")
def atlas(tmp_path_factory) -> Path:
    """The world in the style that is usual."""
    return make(tmp_path_factory.mktemp("atlas") / "world", "free")


@pytest.fixture(scope="session")
def terse_atlas(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("terse_atlas") / "world", "terse")


def make(out: Path, style: str) -> Path:
    assert main(["--out", str(out), "--style", style, *SIZES]) == 0
    return out
