"""A small world of real facts in each style, made once."""

import asyncio
from pathlib import Path

import pytest
from few_facts import few_facts

from arpo_verl.worlds.atlas import __main__ as command
from arpo_verl.worlds.atlas.making import World, make_world
from arpo_verl.worlds.atlas.passages import make_corpus
from arpo_verl.worlds.atlas.recipe import Recipe

SIZES = {"questions": 120, "validation": 60, "traces": 121}
WORDS = [word for name, size in SIZES.items() for word in (f"--{name}", str(size))]


@pytest.fixture(scope="session")
def atlas(tmp_path_factory) -> Path:
    """The world in the style that is usual."""
    return make(tmp_path_factory.mktemp("atlas") / "world", "free")


@pytest.fixture(scope="session")
def terse_atlas(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("terse_atlas") / "world", "terse")


def make(out: Path, style: str) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "load_facts", few_facts)
        assert command.main(["--out", str(out), "--style", style, *WORDS]) == 0
    return out


@pytest.fixture(scope="session")
def made(atlas, tmp_path_factory) -> World:
    """The same world with all that leads to the answers, made again."""
    corpus = tmp_path_factory.mktemp("made") / "corpus.jsonl"
    corpus.write_bytes((atlas / "corpus.jsonl").read_bytes())
    facts = few_facts()
    return asyncio.run(make_world(Recipe(**SIZES), facts, make_corpus(facts, 0), corpus))
