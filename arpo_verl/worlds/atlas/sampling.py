"""The choice of questions, spread over the kinds: those whose facts the search brings to light."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice

from arpo_verl.worlds.atlas.kinds import KINDS
from arpo_verl.worlds.atlas.material import Material
from arpo_verl.worlds.atlas.question import Question
from arpo_verl.worlds.atlas.tools import WorldTools


@dataclass
class Support:
    """Counts of questions by whether the expert's queries bring the passages with their facts."""

    first: int = 0
    """The first query for each fact does."""
    later: int = 0
    """The surest one does where that does not."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Neither does: questions that are left out, by kind."""

    def as_json(self) -> dict[str, object]:
        """Return the counts, and the share of the questions that are supported."""
        kept = self.first + self.later
        total = kept + self.left_out.total()
        share = round(kept / total, 4) if total else None
        return {
            "by_first_query": self.first,
            "by_later_query": self.later,
            "left_out": dict(sorted(self.left_out.items())),
            "share": share,
        }


class TooFewQuestionsError(ValueError):
    """The kinds have fewer different questions than are asked for."""

    def __init__(self, found: int) -> None:
        super().__init__(f"there are {found} different questions")
        self.found = found


@dataclass(frozen=True)
class Sampler:
    """Draws questions of some kinds about some material."""

    material: Material
    kinds: Sequence[str]
    tools: WorldTools
    support: Support

    async def different(self, count: int, generator: random.Random) -> list[Question]:
        """Return questions no two of which ask the same, in random order, the kinds in turn.

        A kind that has no more leaves its turn to the others.

        Raises:
            TooFewQuestionsError: there are fewer.
        """
        sources = {kind: self._source(kind, generator) for kind in self.kinds}
        found: dict[str, Question] = {}
        while sources and len(found) < count:
            for kind in list(sources):
                if len(found) == count:
                    break
                question = await self._next(sources[kind], found)
                if question is None:
                    del sources[kind]
                else:
                    found[question.key] = question
        if len(found) < count:
            raise TooFewQuestionsError(len(found))
        questions = list(found.values())
        generator.shuffle(questions)
        return questions

    async def repeated(self, count: int, generator: random.Random) -> list[Question]:
        """Return questions in random order, each kind equally often; a kind that has no more is asked anew.

        Raises:
            ValueError: a kind has none.
        """
        sources = {kind: self._source(kind, generator) for kind in self.kinds}
        questions: list[Question] = []
        for kind in islice(cycle(self.kinds), count):
            question = await self._next(sources[kind], {})
            if question is None:
                sources[kind] = self._source(kind, generator)
                question = await self._next(sources[kind], {})
            if question is None:
                raise ValueError(f"{kind} has no question; expected one of each kind")
            questions.append(question)
        generator.shuffle(questions)
        return questions

    def _source(self, kind: str, generator: random.Random) -> Iterator[Question]:
        return KINDS[kind].candidates(self.material, random.Random(generator.random()))

    async def _next(self, source: Iterator[Question], found: dict[str, Question]) -> Question | None:
        for question in source:
            if question.key not in found and await is_supported(question, self.tools, self.support):
                return question
        return None


async def is_supported(question: Question, tools: WorldTools, support: Support) -> bool:
    """Return whether each fact's passage is in the result of one of its queries, and count by which."""
    needs_surest = False
    for fact in question.facts:
        if is_shown(fact.passage, await tools.pages(fact.queries[0])):
            continue
        needs_surest = True
        if not is_shown(fact.passage, await tools.pages(fact.surest)):
            support.left_out[question.kind] += 1
            return False
    support.later += needs_surest
    support.first += not needs_surest
    return True


def is_shown(passage: str, pages: Sequence[str]) -> bool:
    """Return whether one of the pages has the passage."""
    return any(passage in page for page in pages)
