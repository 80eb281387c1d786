"""Facts, questions and traces of the tiny world. Pure Python: the same seed gives the same world.

A fact is a name and a number; the corpus has one document a fact. Questions come in three grades:

    `Zovi?`         needs the search engine
    `34*57?`          needs the interpreter (no model of this size multiplies in its head)
    `Zovi*Kema?`  needs both, the search engine twice

A cold-start trace answers one question. Half of them use the tools; the rest guess at once or give up before the last
call. A model that imitates them masters every step but chooses badly between strategies, and choosing is what
reinforcement learning can teach in minutes.
"""

import itertools
import random
from dataclasses import dataclass, field

SYLLABLES = tuple(consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou")
GRADES = ("search", "python", "both")


@dataclass(frozen=True)
class Question:
    """A prompt, its answer and the tool calls, in order, that lead to it."""

    grade: str
    text: str
    answer: str
    calls: tuple[tuple[str, str], ...]
    """(tool, text of the call) pairs."""


@dataclass(frozen=True)
class World:
    """The facts and the questions about them; no training question is a validation question."""

    facts: dict[str, int]
    train: list[Question] = field(repr=False)
    validation: list[Question] = field(repr=False)

    def corpus(self) -> list[dict[str, str]]:
        """Return the documents of the search engine, one a fact."""
        return [{"title": name, "contents": f"{name} {value}"} for name, value in self.facts.items()]


def make_world(seed: int, facts: int = 256, train: int = 2048, validation: int = 72) -> World:
    """Make a world whose questions are spread evenly over the grades.

    Raises:
        ValueError: `facts` is not enough for validation questions that are all different, or more than there are names.
    """
    held_out_facts = facts // 4
    is_enough = _can_ask(held_out_facts, validation) and _can_ask(facts - held_out_facts, train)
    if not is_enough or validation > 2 * held_out_facts or facts > len(SYLLABLES) ** 2:
        raise ValueError(
            f"facts={facts}, train={train}, validation={validation}; expected at most {len(SYLLABLES) ** 2} facts, at "
            f"most facts/2 validation questions, and enough facts for different questions: change one of them"
        )
    generator = random.Random(f"world {seed}")
    pairs = generator.sample([(first, second) for first in SYLLABLES for second in SYLLABLES], facts)
    values = {(first + second).capitalize(): generator.randint(10, 99) for first, second in pairs}
    names = list(values)
    seen: set[str] = set()
    held_out = _questions(generator, values, names[:held_out_facts], seen, validation)
    return World(values, _questions(generator, values, names[held_out_facts:], seen, train), held_out)


def _can_ask(facts: int, questions: int) -> bool:
    """Return whether there are as many different questions, a third of them in each grade."""
    pairs, products = facts * (facts - 1), 90 * 90
    return questions == 0 or (facts > 0 and questions // 3 <= pairs and questions // 3 < products // 2)


def cold_start_question(generator: random.Random) -> tuple[Question, list[str]]:
    """Return a question about facts made up for it, and what the tools return to its calls.

    Every trace has facts of its own, so that a model can't learn them by heart and has to read the results.
    """
    names = ["".join(generator.choices(SYLLABLES, k=2)).capitalize() for _ in range(2)]
    values = {name: generator.randint(10, 99) for name in names}
    question = _question(generator, values, names, generator.choice(GRADES))
    results = [
        f"Page 1: {text} {values[text]}" if tool == "search" else question.answer for tool, text in question.calls
    ]
    return question, results


def trace(question: Question, results: list[str], strategy: str, generator: random.Random) -> list[tuple[str, bool]]:
    """Return a trace as (text, is written by the model) pieces.

    Args:
        question: the question to answer.
        results: what the tools return to `question.calls`, in order.
        strategy: `tools` (every call), `guess` (no call) or `give_up` (all calls but the last, then a guess).
        generator: source of the guesses.
    """
    calls = {"tools": len(results), "guess": 0, "give_up": len(results) - 1}[strategy]
    pieces: list[tuple[str, bool]] = []
    for (tool, text), result in list(zip(question.calls, results, strict=True))[:calls]:
        pieces.append((f"<{tool}>{text}</{tool}>", True))
        pieces.append((f" <result>\n{result}\n</result>", False))
    answer = question.answer if strategy == "tools" else str(generator.randint(10, 99))
    pieces.append((f"<answer>\\boxed{{{answer}}}</answer>", True))
    return pieces


def _questions(
    generator: random.Random, values: dict[str, int], names: list[str], seen: set[str], count: int
) -> list[Question]:
    """Return `count` questions about `names`; only single facts, which are few, may be asked about twice."""
    questions: list[Question] = []
    facts = itertools.cycle(names)
    while len(questions) < count:
        grade = GRADES[len(questions) % len(GRADES)]
        question = _question(generator, values, [next(facts)] if grade == "search" else names, grade)
        if grade != "search" and question.text in seen:
            continue
        seen.add(question.text)
        questions.append(question)
    return questions


def _question(generator: random.Random, values: dict[str, int], names: list[str], grade: str) -> Question:
    if grade == "search":
        name = names[0]
        return Question(grade, f"{name}?", str(values[name]), (("search", name),))
    if grade == "python":
        a, b = generator.randint(10, 99), generator.randint(10, 99)
        return Question(grade, f"{a}*{b}?", str(a * b), (("python", f"{a}*{b}"),))
    first, second = generator.sample(names, 2)
    a, b = values[first], values[second]
    calls = (("search", first), ("search", second), ("python", f"{a}*{b}"))
    return Question(grade, f"{first}*{second}?", str(a * b), calls)
