"""What a style of traces decides: the words of the thoughts and the queries, and never which call is made."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from arpo_verl.worlds.atlas.question import Choice, Fact, Program, Question


@dataclass(frozen=True)
class Reading:
    """A fact as it was read from a result, rightly or not."""

    fact: Fact
    subject: str
    """What the reader takes it to be about."""
    value: str
    page: int | None
    """The number of the page in the last result; None: an earlier result had it."""
    pages: int
    """How many pages the last result has."""
    namesake: tuple[int, str] | None = None
    """Page and subject of another of that name in the last result, which is not asked about."""


class Style(Protocol):
    """The wording of a trace. Each method returns a sentence or more, `""` for none."""

    def opening(self, question: Question, fact: Fact, generator: random.Random) -> str:
        """Return the plan before the first call, which looks for the fact."""
        ...

    def query(self, fact: Fact, generator: random.Random) -> str:
        """Return one of the queries for a fact."""
        ...

    def missing(self, fact: Fact, generator: random.Random) -> str:
        """Return what is thought of a result without the passage."""
        ...

    def found(self, reading: Reading, generator: random.Random) -> str:
        """Return what is thought of a result with it."""
        ...

    def following(self, fact: Fact, generator: random.Random) -> str:
        """Return the plan to look for another fact."""
        ...

    def chosen(self, choice: Choice, readings: Sequence[Reading], winner: int, generator: random.Random) -> str:
        """Return a comparison and its outcome; `winner` counts within the readings."""
        ...

    def computing(self, program: Program, code: str, generator: random.Random) -> tuple[str, str]:
        """Return the plan to compute, and the program that is run."""
        ...

    def in_head(self, program: Program, code: str, result: str, generator: random.Random) -> str:
        """Return a computation without a tool."""
        ...

    def computed(self, program: Program, result: str, generator: random.Random) -> str:
        """Return what is thought of what the program has printed."""
        ...

    def thought(self, sentences: Sequence[str], plan: str, generator: random.Random) -> str:
        """Return the thought of one turn, `""` for none: what there is to say in the order of events, and the plan."""
        ...

    def ending(self, generator: random.Random) -> str:
        """Return the last words before the answer."""
        ...

    def answer(self, answer: str, generator: random.Random) -> str:
        r"""Return the text between `<answer>` and `</answer>`, with the answer in `\boxed{}`."""
        ...
