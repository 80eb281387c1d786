"""Makes the questions of both sides and the traces."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from arpo_verl.worlds.atlas.expert import Trace, draw_strategy, solve
from arpo_verl.worlds.atlas.facts import Facts
from arpo_verl.worlds.atlas.material import make_material
from arpo_verl.worlds.atlas.passages import Corpus
from arpo_verl.worlds.atlas.question import Question
from arpo_verl.worlds.atlas.recipe import Recipe
from arpo_verl.worlds.atlas.sampling import Sampler, Support, TooFewQuestionsError
from arpo_verl.worlds.atlas.split import Side, split_names
from arpo_verl.worlds.atlas.styles import STYLES
from arpo_verl.worlds.atlas.tools import WorldTools

_AT_A_TIME = 16
"""Traces that are written at the same time: their programs share the cores."""


@dataclass(frozen=True)
class World:
    """All that is written but the corpus, and the counts."""

    train: list[Question]
    validation: list[Question]
    traces: list[Trace]
    support: dict[str, Support]
    """By `train`, `validation` and `traces`."""


async def make_world(recipe: Recipe, facts: Facts, corpus: Corpus, corpus_file: Path) -> World:
    """Make questions and traces with the tools over the corpus as it was written.

    Raises:
        ValueError: the data have fewer questions than are asked for.
        RuntimeError: a tool failed.
    """
    sides = split_names(facts, recipe.seed)
    support = {part: Support() for part in ("train", "validation", "traces")}
    tools = WorldTools(corpus_file)

    def sampler(side: Side, part: str) -> Sampler:
        return Sampler(make_material(facts, corpus, sides, side), recipe.kinds, tools, support[part])

    def generator(part: str) -> random.Random:
        return random.Random(f"atlas {part} {recipe.seed}")

    try:
        with _option("--questions", recipe.questions):
            train = await sampler("train", "train").different(recipe.questions, generator("train"))
        with _option("--validation", recipe.validation):
            validation = await sampler("validation", "validation").different(recipe.validation, generator("validation"))
        asked = await sampler("train", "traces").repeated(recipe.traces, generator("traces"))
        return World(train, validation, await _solve_all(recipe, asked, tools), support)
    finally:
        tools.close()


@contextmanager
def _option(name: str, count: int) -> Iterator[None]:
    try:
        yield
    except TooFewQuestionsError as error:
        raise ValueError(
            f"{name} {count}; expected at most {error.found}, as many different questions as these kinds have: "
            f"lower it, or name more --kinds"
        ) from None


async def _solve_all(recipe: Recipe, questions: list[Question], tools: WorldTools) -> list[Trace]:
    """Solve questions, each with a generator of its own, so that it matters nothing which is ready first."""
    traces: list[Trace] = []
    for first in range(0, len(questions), _AT_A_TIME):
        several = enumerate(questions[first : first + _AT_A_TIME], start=first)
        traces += await asyncio.gather(*(_solve(recipe, question, number, tools) for number, question in several))
    return traces


async def _solve(recipe: Recipe, question: Question, number: int, tools: WorldTools) -> Trace:
    generator = random.Random(f"atlas trace {recipe.seed} {number}")
    strategy = draw_strategy(question, recipe.strategies, generator)
    return await solve(question, strategy, STYLES[recipe.style], generator, tools)
