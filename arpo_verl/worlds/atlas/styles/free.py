"""Free thoughts: each event in many wordings, in varying orders, with and without remarks, repetitions and doubts.

After a result nothing is settled by a template: how the thought begins, whether the page, the value or the plan comes
first, what is said of the other pages, and how the next query is put are all drawn.
"""

import random
from collections.abc import Sequence

from arpo_verl.worlds.atlas.question import Choice, Fact, Program, Question
from arpo_verl.worlds.atlas.styles.style import Reading

_ORDINALS = ("first", "second", "third", "fourth", "fifth")

_OPENINGS = (
    "I need {what}.",
    "The question is about {subject}. I should look up {what}.",
    "Let me find {what} first.",
    "To answer this, {what} has to be known.",
    "Where could {what} be found? A search should tell.",
    "I don't know {what} by heart, so I look it up.",
    "Okay, {subject}. What I want is the {attribute}.",
    "Start with {subject}: I am after the {attribute}.",
    "Before anything else I want to know {what}.",
)
_PLANS = (
    "This takes {steps} facts, and {what} is the first.",
    "There are {steps} things to find out. First of all, {what}.",
    "One step at a time: {what} comes first.",
)
_MISSING = (
    "None of the pages tells me {what}.",
    "That is not what I was looking for. Nothing here about {what}.",
    "Hmm, these pages are about other things. I still need {what}.",
    "The search has missed {subject}. I put it differently.",
    "{subject_start} isn't among these. Another query may help.",
    "Not here. Let me be more exact about {subject}.",
    "I see no line on the {attribute} of {subject}, so I search again.",
)
_FOUND = (
    "Page {page} has it: the {attribute} of {subject} is {value}.",
    "The {ordinal} page says that the {attribute} of {subject} is {value}.",
    "{value}, according to page {page}, is the {attribute} of {subject}.",
    "So the {attribute} of {subject} is {value}.",
    "For {subject}, page {page} gives {value} as {attribute}.",
    "I read on page {page}: {subject}, {attribute} {value}.",
    "There it is. {subject_start}: {value}.",
    "Good, {what} is {value}; that is on the {ordinal} page.",
    "What I want stands on page {page}, {value}.",
    "{subject_start} has {value} as its {attribute}, says the {ordinal} result.",
)
_NEIGHBOURS = (
    "Page {page} names the neighbours of {subject}: {value}.",
    "The neighbours are {value}.",
    "{subject_start} has borders with {value}, as the {ordinal} page says.",
    "So I have to look at {value}.",
    "According to page {page}, {value} lie around {subject}.",
)
_SEEN_BEFORE = (
    "I have seen {what} already: {value}.",
    "An earlier page told me that the {attribute} of {subject} is {value}.",
    "No need to search for {what}. It was there before, {value}.",
    "Looking back, {what} is {value}.",
)
_NAMESAKES = (
    "Page {other_page} is about {other}, which is not meant.",
    "There is {other} among the results too.",
    "Careful, {other} came up as well.",
    "Several places are called {name}; only one of them is meant.",
    "Not {other}, that is another place.",
    "{other_start} on page {other_page} only has the same name.",
    "The name alone would not do here.",
)
_OTHER_PAGES = (
    "The other pages don't matter.",
    "The rest is about something else.",
    "{pages} pages came back.",
    "That was quick.",
    "One page is enough.",
    "Let me read the {pages} results.",
)
_FOLLOWING = (
    "Next comes {what}.",
    "Now for {what}.",
    "What is missing is {what}.",
    "I still have to find {what}.",
    "With that, I can look for {what}.",
    "Then there is {subject}: the {attribute}, please.",
    "The next thing to look up is {what}.",
    "That leaves {what}.",
    "And {subject}? I need its {attribute} too.",
)
_CHOSEN = {
    "largest": (
        "Of {values}, {best} is the largest, and that is {winner}.",
        "{winner_start} comes out on top with {best}.",
        "The numbers are {values}. The biggest is {best}: {winner}.",
        "No other reaches the {best} of {winner}.",
        "Comparing {values}, I take {winner}.",
    ),
    "smallest": (
        "Of {values}, {best} is the smallest, and that is {winner}.",
        "{winner_start} has the least, {best}.",
        "The numbers are {values}. The lowest is {best}: {winner}.",
        "None is below the {best} of {winner}.",
        "Comparing {values}, I take {winner}.",
    ),
}
_COMPUTING = (
    "I let Python work out {words}.",
    "Now {words}. Better computed than guessed.",
    "What remains is {words}; a short program does it.",
    "Time to compute {words}.",
    "These numbers are too long for my head, so Python gets {words}.",
    "Put both into one expression to get {words}.",
)
_IN_HEAD = (
    "{code} makes {result}.",
    "I work out {words} myself: {result}.",
    "That can be done without a program, {code} = {result}.",
    "By hand, {words} is {result}.",
)
_COMPUTED = (
    "It prints {result}.",
    "So {words} is {result}.",
    "{result}, then.",
    "Python says {result}, which is what was asked for.",
    "The result is {result}.",
    "That gives {result}.",
)
_PROGRAMS = ("{code}", "print({code})", "result = {code}\nprint(result)", "x = {code}\nx")
_ENDS = (
    "",
    "",
    "",
    "That answers the question.",
    "I can answer now.",
    "Done.",
    "So that is it.",
    "Nothing else to check.",
)
_ANSWERS = ("\\boxed{{{answer}}}", "The answer is \\boxed{{{answer}}}", "The answer is \\boxed{{{answer}}}.")


class Free:
    """A `Style` of many wordings and orders."""

    def opening(self, question: Question, fact: Fact, generator: random.Random) -> str:
        steps = len({fact.passage for fact in question.facts})
        words = {1: "", 2: "two", 3: "three", 4: "four", 5: "five"}[steps]
        templates = (*_OPENINGS, *_PLANS) if words else _OPENINGS
        return _fill(generator.choice(templates), fact, fact.sought, steps=words)

    def query(self, fact: Fact, generator: random.Random) -> str:
        return generator.choice(fact.queries)

    def missing(self, fact: Fact, generator: random.Random) -> str:
        return _fill(generator.choice(_MISSING), fact)

    def found(self, reading: Reading, generator: random.Random) -> str:
        fact, page = reading.fact, reading.page
        if page is None:
            return _fill(generator.choice(_SEEN_BEFORE), fact, reading.subject, value=reading.value)
        templates = _NEIGHBOURS if fact.attribute == "neighbours" else _FOUND
        number = {"page": page, "ordinal": _ORDINALS[page - 1], "pages": reading.pages}
        sentences = [_fill(generator.choice(templates), fact, reading.subject, value=reading.value, **number)]
        if reading.namesake is not None and generator.random() < 0.6:
            other_page, other = reading.namesake
            named = {"other": other, "other_start": _start(other), "other_page": other_page}
            sentences.append(_fill(generator.choice(_NAMESAKES), fact, reading.subject, **named))
        elif reading.pages > 1 and generator.random() < 0.3:
            sentences.append(_fill(generator.choice(_OTHER_PAGES), fact, reading.subject, **number))
        generator.shuffle(sentences)
        return " ".join(sentences)

    def following(self, fact: Fact, generator: random.Random) -> str:
        return _fill(generator.choice(_FOLLOWING), fact)

    def chosen(self, choice: Choice, readings: Sequence[Reading], winner: int, generator: random.Random) -> str:
        subject = readings[winner].subject
        return generator.choice(_CHOSEN[choice.comparison]).format(
            values=", ".join(reading.value for reading in generator.sample(readings, len(readings))),
            best=readings[winner].value,
            winner=subject,
            winner_start=_start(subject),
        )

    def computing(self, program: Program, code: str, generator: random.Random) -> tuple[str, str]:
        plan = generator.choice(_COMPUTING).format(words=program.words)
        return plan, generator.choice(_PROGRAMS).format(code=code)

    def in_head(self, program: Program, code: str, result: str, generator: random.Random) -> str:
        return generator.choice(_IN_HEAD).format(code=code, words=program.words, result=result)

    def computed(self, program: Program, result: str, generator: random.Random) -> str:
        return _start(generator.choice(_COMPUTED).format(words=program.words, result=result))

    def thought(self, sentences: Sequence[str], plan: str, generator: random.Random) -> str:
        """Join what there is to say; the plan may come before what it follows from, a conclusion may not."""
        is_plan_first = generator.random() < 0.25
        said = (plan, *sentences) if is_plan_first else (*sentences, plan)
        return " ".join(sentence for sentence in said if sentence)

    def ending(self, generator: random.Random) -> str:
        """Return the last words before the answer."""
        return generator.choice(_ENDS)

    def answer(self, answer: str, generator: random.Random) -> str:
        return generator.choice(_ANSWERS).format(answer=answer)


def _fill(template: str, fact: Fact, subject: str = "", **values: object) -> str:
    subject = subject or fact.subject
    text = template.format(
        what=f"the {fact.attribute} of {subject}",
        subject=subject,
        subject_start=_start(subject),
        attribute=fact.attribute,
        name=fact.name,
        **values,
    )
    return _start(text)


def _start(text: str) -> str:
    """Return a text with a capital letter in front."""
    return text[:1].upper() + text[1:]
