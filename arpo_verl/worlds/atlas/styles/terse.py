"""Terse thoughts: what was read and what follows from it, each in one template; no plans."""

import random
from collections.abc import Sequence

from arpo_verl.worlds.atlas.question import Choice, Fact, Program, Question
from arpo_verl.worlds.atlas.styles.style import Reading


class Terse:
    """A `Style` of fixed templates."""

    def opening(self, question: Question, fact: Fact, generator: random.Random) -> str:
        return ""

    def query(self, fact: Fact, generator: random.Random) -> str:
        return fact.queries[0]

    def missing(self, fact: Fact, generator: random.Random) -> str:
        return "Not there."

    def found(self, reading: Reading, generator: random.Random) -> str:
        where = "Seen before" if reading.page is None else f"Page {reading.page}"
        return f"{where}: {reading.subject}: {reading.value}."

    def following(self, fact: Fact, generator: random.Random) -> str:
        return ""

    def chosen(self, choice: Choice, readings: Sequence[Reading], winner: int, generator: random.Random) -> str:
        return f"The {choice.comparison} is {readings[winner].value}: {readings[winner].subject}."

    def computing(self, program: Program, code: str, generator: random.Random) -> tuple[str, str]:
        return "", code

    def in_head(self, program: Program, code: str, result: str, generator: random.Random) -> str:
        return f"{code} = {result}."

    def computed(self, program: Program, result: str, generator: random.Random) -> str:
        return ""

    def thought(self, sentences: Sequence[str], plan: str, generator: random.Random) -> str:
        return " ".join(sentence for sentence in (*sentences, plan) if sentence)

    def ending(self, generator: random.Random) -> str:
        return ""

    def answer(self, answer: str, generator: random.Random) -> str:
        return f"\\boxed{{{answer}}}"
