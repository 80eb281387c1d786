"""A question: its text and answer, the facts that lead from one to the other, and how the answer follows from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Comparison = Literal["largest", "smallest"]


@dataclass(frozen=True)
class Namesake:
    """Another of the same name, with a value of its own."""

    subject: str
    value: str
    passage: str


@dataclass(frozen=True)
class Fact:
    """A value that one passage of the corpus states."""

    subject: str
    """What it is about, as a sentence names it: `Windsor in California`."""
    attribute: str
    """What it says of it: `population`."""
    value: str
    passage: str
    """The contents of the passage."""
    queries: tuple[str, ...]
    """Queries that name what is known, each as good as the first."""
    surest: str
    """A query for the passage as it is worded, where another has failed."""
    name: str
    """The name alone, a query that may bring others."""
    namesakes: tuple[Namesake, ...] = ()
    sought: str = ""
    """What it is called before it was found, where that is not the subject."""

    def passages_in(self, page: str) -> list[str]:
        """Return those of its passage and its namesakes' that a page of a result has."""
        return [passage for passage in (self.passage, *(one.passage for one in self.namesakes)) if passage in page]

    def values_in(self, page: str) -> list[str]:
        """Return the values that they state."""
        values = {one.passage: one.value for one in self.namesakes} | {self.passage: self.value}
        return [values[passage] for passage in self.passages_in(page)]


@dataclass(frozen=True)
class Program:
    """A computation over the values of the facts."""

    template: str
    """A Python expression with `{0}`, `{1}` and so on for the values."""
    words: str
    """The same in words: `the sum of the two`."""

    def code(self, values: Sequence[str]) -> str:
        """Return the expression over values."""
        return self.template.format(*values)


@dataclass(frozen=True)
class Choice:
    """The choice of one of several facts by their values, which are numbers.

    >>> Choice("largest", 1, 3).winner(["Chad, Mali", "5", "12"])
    2
    """

    comparison: Comparison
    first: int
    """The index of the first fact that is compared."""
    end: int
    """The index after the last one."""
    answers: tuple[str, ...] = ()
    """The answer that each of the compared facts stands for; `()` where facts about the chosen one follow."""

    def winner(self, values: Sequence[str]) -> int:
        """Return the index of the chosen fact, the first of several equal ones."""
        sign = 1 if self.comparison == "largest" else -1
        return max(range(self.first, self.end), key=lambda index: sign * int(values[index]))


@dataclass(frozen=True)
class Question:
    """A question with exactly one right answer.

    The facts are found in their order. The answer is the value of the last one, unless a program computes it or a
    choice has answers.
    """

    kind: str
    text: str
    answer: str
    facts: tuple[Fact, ...]
    entities: frozenset[str]
    """Every country, state and city that the question, the way to the answer and the answer name, folded."""
    key: str
    """What is asked, whatever the wording."""
    program: Program | None = None
    choice: Choice | None = None
