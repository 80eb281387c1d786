"""Kinds of questions about several countries or cities. Ties are never asked about."""

import random
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import TypeVar

from arpo_verl.worlds.atlas.facts import City, Country, fold, with_article
from arpo_verl.worlds.atlas.material import Material, names_of
from arpo_verl.worlds.atlas.question import Choice, Comparison, Fact, Program, Question

_COMPARISONS: tuple[Comparison, ...] = ("largest", "smallest")
_NAMESAKE = {
    "largest": (
        "There are {n} cities called {c}. In which state or country does the one with the most inhabitants lie?",
        "Of the {n} cities called {c}, where is the largest by population? Name the state or the country.",
    ),
    "smallest": (
        "There are {n} cities called {c}. In which state or country does the one with the fewest inhabitants lie?",
        "Of the {n} cities called {c}, where is the smallest by population? Name the state or the country.",
    ),
}
_MOST_NAMESAKES = 3
"""As many as one search shows."""
_NUMBERS = {2: "two", 3: "three"}
_OTHER = {
    2: (
        "There are two cities called {c}. How many people live in the one that is not in {p}?",
        "One {c} is in {p}. How many inhabitants has the other city of that name?",
        "I mean the {c} that is not in {p}: what is its population?",
    ),
    3: (
        "There are three cities called {c}. How many people live in the one that is neither in {p} nor in {q}?",
        "One {c} is in {p}, another in {q}. How many inhabitants has the third city of that name?",
        "I mean the {c} that is not in {p} and not in {q}: what is its population?",
    ),
}
_COMPARE = {
    ("population", "largest"): (
        "Which has more inhabitants, {a} or {b}?",
        "Where do more people live, in {a} or in {b}?",
        "{a} or {b}: which of them has the larger population?",
    ),
    ("population", "smallest"): (
        "Which has fewer inhabitants, {a} or {b}?",
        "Where do fewer people live, in {a} or in {b}?",
    ),
    ("area", "largest"): ("Which has the larger area, {a} or {b}?", "{a} or {b}: which covers more square kilometres?"),
    ("area", "smallest"): ("Which has the smaller area, {a} or {b}?", "{a} or {b}: which covers less ground?"),
}
_SUM = (
    "How many people live in {a} and {b} together?",
    "What is the sum of the populations of {a} and {b}?",
    "If the inhabitants of {a} and those of {b} were counted together, how many would there be?",
)
_DIFFERENCE = (
    "How many more people live in {a} than in {b}?",
    "By how many inhabitants is {a} larger than {b}?",
    "What is the difference between the population of {a} and the smaller one of {b}?",
)
_NEIGHBOUR = (
    "What is the {asked} of the neighbour of {c} {which}?",
    "Among the countries that border {c}, take the one {which}. What is its {asked}?",
    "{c_start} has {n} neighbours. What is the {asked} of the one {which}?",
)
_WHICH: dict[tuple[str, Comparison], tuple[str, ...]] = {
    ("area", "largest"): ("with the largest area", "that covers the most square kilometres"),
    ("area", "smallest"): ("with the smallest area", "that covers the fewest square kilometres"),
    ("population", "largest"): ("with the most inhabitants", "with the largest population"),
    ("population", "smallest"): ("with the fewest inhabitants", "with the smallest population"),
}
_ASKED = {
    2: ("capital", "population", "area", "currency", "calling code"),
    3: ("capital", "population", "area"),
}
"""What is asked for by the number of neighbours, so that four calls are enough: currency and code take one more."""

Thing = TypeVar("Thing")


def namesake(material: Material, generator: random.Random) -> Iterator[Question]:
    """Yield questions after the largest or smallest of all cities of a name, where one search shows them all."""
    pairs = [(cities, comparison) for cities in _groups(material) for comparison in _COMPARISONS]
    generator.shuffle(pairs)
    for cities, comparison in pairs:
        if len({city.population for city in cities}) < len(cities):
            continue
        sought = f"the cities called {cities[0].name}"
        facts = tuple(material.city_fact(city, "population", sought) for city in cities)
        choice = Choice(comparison, 0, len(cities), tuple(city.place for city in cities))
        text = generator.choice(_NAMESAKE[comparison]).format(n=_NUMBERS[len(cities)], c=cities[0].name)
        answer = choice.answers[choice.winner([fact.value for fact in facts])]
        key = f"namesake {fold(cities[0].name)} {comparison}"
        yield Question("namesake", text, answer, facts, names_of(cities), key, choice=choice)


def other(material: Material, generator: random.Random) -> Iterator[Question]:
    """Yield questions after the population of the one city of a name that is not where the others are."""
    pairs = [(cities, city) for cities in _groups(material) for city in cities]
    generator.shuffle(pairs)
    for cities, city in pairs:
        fact = material.city_fact(city, "population", f"the other {city.name}")
        p, q = ([with_article(one.place) for one in cities if one != city] * 2)[:2]
        text = generator.choice(_OTHER[len(cities)]).format(c=city.name, p=p, q=q)
        yield Question("other", text, fact.value, (fact,), names_of(cities), f"other {city.number}")


def compare(material: Material, generator: random.Random) -> Iterator[Question]:
    """Yield questions after the larger or smaller of two countries, or of two cities, of different names."""
    for a, b in _pairs_of_both(material, generator):
        attribute = "population" if isinstance(a, City) else generator.choice(["population", "area"])
        comparison = generator.choice(_COMPARISONS)
        facts = (_fact(material, a, attribute), _fact(material, b, attribute))
        if facts[0].value == facts[1].value or fold(a.name) == fold(b.name):
            continue
        if attribute == "population" and not _are_own_names(material, a, b):
            continue
        choice = Choice(comparison, 0, 2, (a.name, b.name))
        template = generator.choice(_COMPARE[attribute, comparison])
        text = _start(template.format(a=a.label, b=b.label))
        answer = choice.answers[choice.winner([fact.value for fact in facts])]
        key = f"compare {attribute} {_key(a, b)}"
        yield Question("compare", text, answer, facts, names_of([a, b]), key, choice=choice)


def together(material: Material, generator: random.Random) -> Iterator[Question]:
    """Yield questions after the sum or the difference of two populations."""
    for a, b in _pairs_of_both(material, generator):
        if a.population == b.population or not _are_own_names(material, a, b):
            continue
        facts = (_fact(material, a, "population"), _fact(material, b, "population"))
        yield _computed("together", generator, (a.label, b.label), facts, (a, b))


def gap(material: Material, generator: random.Random) -> Iterator[Question]:
    """Yield questions that compare the population of a country's capital with that of another city."""
    cities = list(material.cities)
    generator.shuffle(cities)
    shared = material.sharing_names()
    generator.shuffle(shared)
    capitals = material.with_capital()
    generator.shuffle(capitals)
    mixed = (city for pair in zip(cities, cycle(shared), strict=False) for city in pair)
    for (country, capital), city in zip(cycle(capitals), mixed, strict=False):
        if fold(city.name) == fold(capital.name) or city.population == capital.population:
            continue
        facts = (
            material.country_fact(country, "capital"),
            material.city_fact(capital, "population"),
            material.city_fact(city, "population"),
        )
        labels = (f"the capital of {country.label}", city.label)
        yield _computed("gap", generator, labels, facts, (country, capital, city))


def neighbour(material: Material, generator: random.Random) -> Iterator[Question]:
    """Yield questions after a fact of one of a country's two or three neighbours, chosen by its size."""
    candidates = [
        (country, found, attribute, comparison, asked)
        for country in material.countries
        if 2 <= len(found := material.neighbours(country)) <= max(_ASKED)
        for attribute, comparison in _WHICH
        for asked in _ASKED[len(found)]
        if asked != attribute
    ]
    generator.shuffle(candidates)
    with_capital = {country for country, _ in material.with_capital()}
    for country, found, attribute, comparison, asked in candidates:
        compared = tuple(material.country_fact(one, attribute) for one in found)
        choice = Choice(comparison, 1, 1 + len(found))
        winner = found[choice.winner(["", *(fact.value for fact in compared)]) - 1]
        is_known = {
            "capital": winner in with_capital,
            "currency": winner.currency is not None,
            "calling code": winner.calling_code is not None,
        }
        if not is_known.get(asked, True) or len({fact.value for fact in compared}) < len(found):
            continue
        last = material.country_fact(winner, asked)
        text = generator.choice(_NEIGHBOUR).format(
            c=country.label,
            c_start=_start(country.label),
            n=_NUMBERS[len(found)],
            which=generator.choice(_WHICH[attribute, comparison]),
            asked=asked,
        )
        named: list[Country | City] = [country, *found]
        if asked == "capital" and winner.capital is not None:
            named.append(winner.capital)
        yield Question(
            kind="neighbour",
            text=text,
            answer=last.value,
            facts=(material.country_fact(country, "neighbours"), *compared, last),
            entities=names_of(named),
            key=f"neighbour {country.code} {attribute} {comparison} {asked}",
            choice=choice,
        )


def _groups(material: Material) -> list[tuple[City, ...]]:
    """Return all cities of a name, where there are few, spelled alike, and all of this side."""
    names = sorted({fold(city.name) for city in material.cities})
    usable = set(material.cities)
    groups = (material.namesakes[name] for name in names)
    return [
        cities
        for cities in groups
        if 2 <= len(cities) <= _MOST_NAMESAKES and usable.issuperset(cities) and len({one.name for one in cities}) == 1
    ]


def _computed(
    kind: str,
    generator: random.Random,
    labels: tuple[str, str],
    facts: tuple[Fact, ...],
    named: Sequence[Country | City],
) -> Question:
    """Return a question after the sum, or the difference without its sign, of the last two facts."""
    first, second = int(facts[-2].value), int(facts[-1].value)
    places = [len(facts) - 2, len(facts) - 1]
    is_sum = generator.random() < 0.5
    if not is_sum and first < second:
        places, labels = places[::-1], labels[::-1]
    template, words = (_SUM, "the sum") if is_sum else (_DIFFERENCE, "the difference")
    return Question(
        kind=kind,
        text=generator.choice(template).format(a=labels[0], b=labels[1]),
        answer=str(first + second if is_sum else abs(first - second)),
        facts=facts,
        entities=names_of(named),
        key=f"{kind} {'+' if is_sum else '-'} {_key(*named)}",
        program=Program(f"{{{places[0]}}} {'+' if is_sum else '-'} {{{places[1]}}}", words),
    )


def _pairs_of_both(material: Material, generator: random.Random) -> Iterator[tuple[Country | City, Country | City]]:
    """Yield pairs of countries, of cities, and of cities that share their names, in turn, as long as there are any."""
    things: tuple[Sequence[Country | City], ...] = (material.countries, material.cities, material.sharing_names())
    sources = [_pairs(some, generator) for some in things]
    while sources:
        for source in list(sources):
            pair = next(source, None)
            if pair is None:
                sources.remove(source)
            else:
                yield pair


def _pairs(things: Sequence[Thing], generator: random.Random) -> Iterator[tuple[Thing, Thing]]:
    """Yield every pair, in an order in which each thing comes once before any comes again."""
    order = list(things)
    generator.shuffle(order)
    for distance in range(1, len(order) // 2 + 1):
        for index, thing in enumerate(order):
            yield thing, order[(index + distance) % len(order)]


def _fact(material: Material, thing: Country | City, attribute: str) -> Fact:
    if isinstance(thing, City):
        return material.city_fact(thing, attribute)
    return material.country_fact(thing, attribute)


def _are_own_names(material: Material, *things: Country | City) -> bool:
    return all(isinstance(thing, City) or material.has_own_name(thing) for thing in things)


def _key(*things: Country | City) -> str:
    return " ".join(sorted(str(thing.number) if isinstance(thing, City) else thing.code for thing in things))


def _start(text: str) -> str:
    """Return a text with a capital letter in front."""
    return text[0].upper() + text[1:]
