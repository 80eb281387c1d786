"""The scripted expert: it solves a question with the real tools, by one of several strategies, and writes the trace.

| strategy | what it does                                                                              | answer |
|----------|-------------------------------------------------------------------------------------------|--------|
| careful  | searches with all that it knows, checks what it reads, computes by Python                 | right  |
| broad    | searches for the bare name first, and again with more words where that brings others      | right  |
| mental   | as careful, but computes in its head; not where nothing is computed                       | right  |
| hasty    | searches for the bare name and takes the first page of that name, whichever place it is   | may be |
|          | about; only where the question is about a city that shares its name                       | wrong  |

No answer is drawn at random: a model that imitates guesses guesses after having read the right page.
"""

import random
from collections.abc import Collection
from dataclasses import dataclass, field

from arpo_verl.config import ArpoConfig
from arpo_verl.worlds.atlas.question import Fact, Question
from arpo_verl.worlds.atlas.sampling import is_shown
from arpo_verl.worlds.atlas.styles.style import Reading, Style
from arpo_verl.worlds.atlas.tools import WorldTools

STRATEGIES = {"careful": 0.5, "broad": 0.3, "mental": 0.1, "hasty": 0.2}
"""The weights by which a strategy is drawn, among those that the question allows."""


@dataclass(frozen=True)
class Trace:
    """A question with what the expert wrote and what the tools showed."""

    question: Question
    strategy: str
    pieces: tuple[tuple[str, bool], ...]
    """(text, is written by the model) pairs."""
    answer: str

    @property
    def text(self) -> str:
        """The whole response."""
        return "".join(text for text, _ in self.pieces)

    @property
    def is_right(self) -> bool:
        """Whether the answer is the question's."""
        return self.answer == self.question.answer


class NotFoundError(RuntimeError):
    """No query has brought the passage."""


def possible_strategies(question: Question) -> dict[str, float]:
    """Return the weights of the strategies that differ for a question."""
    takes_the_name = all(fact.queries == (fact.name,) for fact in question.facts)
    has_namesakes = any(fact.namesakes for fact in question.facts)
    has_answers = question.choice is None or bool(question.choice.answers)
    possible = {
        "careful": True,
        "broad": not takes_the_name,
        "mental": question.program is not None,
        "hasty": has_namesakes and has_answers and not (takes_the_name and question.choice is not None),
    }
    return {name: weight for name, weight in STRATEGIES.items() if possible[name]}


def draw_strategy(question: Question, strategies: Collection[str], generator: random.Random) -> str:
    """Return one of some strategies, `careful` among them, that the question allows."""
    weights = {name: weight for name, weight in possible_strategies(question).items() if name in strategies}
    [strategy] = generator.choices(list(weights), list(weights.values()))
    return strategy


async def solve(question: Question, strategy: str, style: Style, generator: random.Random, tools: WorldTools) -> Trace:
    """Solve a question by one of `STRATEGIES`.

    Raises:
        NotFoundError: a passage is not found; never where `is_supported`.
        RuntimeError: a tool failed.
    """
    expert = _Expert(strategy, style, generator, tools)
    answer = await expert.solve(question)
    return Trace(question, strategy, tuple(expert.pieces), answer)


@dataclass
class _Expert:
    """One attempt at one question."""

    strategy: str
    style: Style
    generator: random.Random
    tools: WorldTools
    pieces: list[tuple[str, bool]] = field(default_factory=list)
    _sentences: list[str] = field(default_factory=list)
    """What the thought of the next turn says of what happened."""
    _plan: str = ""
    """What it says of the call that follows."""
    _last: list[str] = field(default_factory=list)
    """The pages of the last result."""
    _earlier: list[str] = field(default_factory=list)
    _asked: frozenset[str] = frozenset()
    """The passages of the question's facts."""

    async def solve(self, question: Question) -> str:
        """Write the pieces and return the answer."""
        self._asked = frozenset(fact.passage for fact in question.facts)
        readings: list[Reading] = []
        choice, winner = question.choice, 0
        for number, fact in enumerate(question.facts):
            readings.append(await self._read(question, fact, is_first=number == 0))
            if choice is not None and number + 1 == choice.end:
                winner = choice.winner([reading.value for reading in readings])
                compared = readings[choice.first :]
                self._sentences.append(self.style.chosen(choice, compared, winner - choice.first, self.generator))
        answer = readings[-1].value
        if choice is not None and choice.answers:
            answer = choice.answers[winner - choice.first]
        if question.program is not None:
            answer = await self._compute(question, readings)
        self._sentences.append(self.style.ending(self.generator))
        self._write(f"<answer>{self.style.answer(answer, self.generator)}</answer>")
        return answer

    async def _read(self, question: Question, fact: Fact, is_first: bool) -> Reading:
        """Find a fact, in what was shown already or by searching for it."""
        if is_first:
            self._plan = self.style.opening(question, fact, self.generator)
        elif is_shown(fact.passage, self._last):
            return self._note(self._reading(fact))
        elif is_shown(fact.passage, self._earlier):
            return self._note(Reading(fact, fact.subject, fact.value, None, len(self._last)))
        else:
            self._plan = self.style.following(fact, self.generator)
        queries = [self.style.query(fact, self.generator), fact.surest, fact.queries[0]]
        if self.strategy in ("broad", "hasty"):
            queries.insert(0, fact.name)
        for query in dict.fromkeys(queries):
            await self._search(query)
            reading = self._first_of_the_name(fact) if self.strategy == "hasty" else None
            if reading is None and is_shown(fact.passage, self._last):
                reading = self._reading(fact)
            if reading is not None:
                return self._note(reading)
            self._sentences.append(self.style.missing(fact, self.generator))
        raise NotFoundError(f"no query brings the passage {fact.passage!r}")

    def _note(self, reading: Reading) -> Reading:
        self._sentences.append(self.style.found(reading, self.generator))
        return reading

    def _reading(self, fact: Fact) -> Reading:
        numbers = {
            passage: number for number, page in enumerate(self._last, start=1) for passage in fact.passages_in(page)
        }
        others = [
            (numbers[one.passage], one.subject)
            for one in fact.namesakes
            if one.passage in numbers and one.passage not in self._asked
        ]
        page = numbers[fact.passage]
        return Reading(fact, fact.subject, fact.value, page, len(self._last), min(others, default=None))

    def _first_of_the_name(self, fact: Fact) -> Reading | None:
        """Return what the first page says that is about anything of that name."""
        if not fact.namesakes:
            return None
        for number, page in enumerate(self._last, start=1):
            for value in fact.values_in(page):
                return Reading(fact, fact.name, value, number, len(self._last))
        return None

    async def _compute(self, question: Question, readings: list[Reading]) -> str:
        program = question.program
        assert program is not None, "it is asked for where there is one alone"
        code = program.code([reading.value for reading in readings])
        if self.strategy == "mental":
            result = await self.tools.call("python", code)
            self._sentences.append(self.style.in_head(program, code, result, self.generator))
            return result
        self._plan, source = self.style.computing(program, code, self.generator)
        result = await self._call("python", source)
        self._sentences.append(self.style.computed(program, result, self.generator))
        return result

    async def _search(self, query: str) -> None:
        self._earlier += self._last
        self._last = (await self._call("search", query)).split("\n")

    async def _call(self, tool: str, text: str) -> str:
        self._write(f"<{tool}>{text}</{tool}>")
        result = await self.tools.call(tool, text)
        self.pieces.append((ArpoConfig.result_template.replace("{result}", result), False))
        return result

    def _write(self, text: str) -> None:
        """Write a turn: the thought so far if there is any, then a call or the answer."""
        thought = self.style.thought(self._sentences, self._plan, self.generator)
        self._sentences, self._plan = [], ""
        lines = [f"<think>{thought}</think>", text] if thought else [text]
        self.pieces.append(("\n" * bool(self.pieces) + "\n".join(lines), True))
