"""Terse thoughts: one template for each event, and one order."""

import random
from collections.abc import Sequence

from arpo_verl.worlds.atlas.question import Choice, Fact, Program, Question
from arpo_verl.worlds.atlas.styles.style import Reading


class Terse:
    """A `Style` of fixed templates."""

    def opening(self, question: Question, fact: Fact, generator: random.Random) -> str:
        return f"First: {fact.sought or fact.subject}, {fact.attribute}."

    def queries(self, fact: Fact, generator: random.Random) -> Sequence[str]:
        return fact.queries

    def missing(self, fact: Fact, generator: random.Random) -> str:
        return f"Not there: {fact.subject}, {fact.attribute}."

    def found(self, reading: Reading, generator: random.Random) -> str:
        where = "Seen before" if reading.page is None else f"Page {reading.page}"
        return f"{where}: {reading.subject}, {reading.fact.attribute}: {reading.value}."

    def following(self, fact: Fact, generator: random.Random) -> str:
        return f"Next: {fact.subject}, {fact.attribute}."

    def chosen(self, choice: Choice, readings: Sequence[Reading], winner: int, generator: random.Random) -> str:
        values = ", ".join(reading.value for reading in readings)
        return f"The {choice.comparison} of {values} is {readings[winner].value}: {readings[winner].subject}."

    def computing(self, program: Program, code: str, generator: random.Random) -> tuple[str, str]:
        return f"Compute {program.words}.", code

    def in_head(self, program: Program, code: str, result: str, generator: random.Random) -> str:
        return f"{code} = {result}."

    def computed(self, program: Program, result: str, generator: random.Random) -> str:
        return f"Result: {result}."

    def thought(self, sentences: Sequence[str], plan: str, generator: random.Random) -> str:
        return " ".join(sentence for sentence in (*sentences, plan) if sentence)

    def ending(self, generator: random.Random) -> str:
        return ""

    def answer(self, answer: str, generator: random.Random) -> str:
        return f"\\boxed{{{answer}}}"
