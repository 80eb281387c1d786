"""Kinds of questions about one country or one city."""

import random
from collections.abc import Iterator

from arpo_verl.worlds.atlas.material import CODES, OVERVIEW, Material, names_of
from arpo_verl.worlds.atlas.question import Program, Question

_LOOKUP = {
    "capital": ("What is the capital of {c}?", "Which city is the capital of {c}?", "Name the capital of {c}."),
    "population": ("How many people live in {c}?", "What is the population of {c}?", "How many inhabitants has {c}?"),
    "area": (
        "How many square kilometres does {c} cover?",
        "What is the area of {c} in square kilometres?",
        "How large is {c}, in square kilometres?",
    ),
    "continent": ("On which continent does {c} lie?", "Which continent does {c} belong to?"),
    "currency": ("What is the currency of {c}?", "Which currency do people pay with in {c}?"),
    "calling code": (
        "What is the calling code of {c}?",
        "Which calling code do telephone calls to {c} begin with?",
    ),
    "three-letter code": ("What is the three-letter code of {c}?", "Which three letters stand for {c}?"),
}
_HOMONYM = (
    "How many people live in {c}?",
    "What is the population of {c}?",
    "How many inhabitants has {c}?",
    "I mean {c}, not another place of that name: how many people live there?",
)
_CAPITAL = {
    "population": (
        "How many people live in the capital of {c}?",
        "What is the population of the city that is the capital of {c}?",
        "How many inhabitants has the capital of {c}?",
    ),
    "time zone": (
        "In which time zone does the capital of {c} lie?",
        "What is the time zone of the capital of {c}?",
    ),
}
_DENSITY = (
    "How many people live on a square kilometre of {c}, as a rounded whole number?",
    "What is the population density of {c} in inhabitants per square kilometre, rounded to a whole number?",
    "Divide the population of {c} by its area in square kilometres. What is the result, rounded to a whole number?",
)
_SHARE = (
    "What percentage of the inhabitants of {c} live in its capital, rounded to one decimal?",
    "How many per cent of the people of {c} live in the capital? Round to one decimal.",
    "What share of the population of {c} does its capital have, in per cent with one decimal?",
)
_CLEAR = 0.02
"""How far a quotient stays from where its rounding changes, in units of the last digit: no answer hangs on a method."""


def lookup(material: Material, generator: random.Random) -> Iterator[Question]:
    """Yield questions after one fact of a country."""
    pairs = [(country, attribute) for country in material.countries for attribute in (*OVERVIEW, *CODES)]
    generator.shuffle(pairs)
    capitals = {country for country, _ in material.with_capital()}
    for country, attribute in pairs:
        is_known = {
            "capital": country in capitals,
            "population": material.has_own_name(country),
            "currency": country.currency is not None,
            "calling code": country.calling_code is not None,
            "three-letter code": country.letters is not None,
        }
        if not is_known.get(attribute, True):
            continue
        fact = material.country_fact(country, attribute)
        named = [country, country.capital] if attribute == "capital" else [country]
        yield Question(
            kind="lookup",
            text=generator.choice(_LOOKUP[attribute]).format(c=country.label),
            answer=fact.value,
            facts=(fact,),
            entities=names_of(one for one in named if one is not None),
            key=f"lookup {country.code} {attribute}",
        )


def homonym(material: Material, generator: random.Random) -> Iterator[Question]:
    """Yield questions after the population of a city that shares its name."""
    cities = material.sharing_names()
    generator.shuffle(cities)
    for city in cities:
        fact = material.city_fact(city, "population")
        text = generator.choice(_HOMONYM).format(c=f"the {city.label}")
        yield Question("homonym", text, fact.value, (fact,), names_of([city]), f"homonym {city.number}")


def capital(material: Material, generator: random.Random) -> Iterator[Question]:
    """Yield questions after a fact of the capital of a country."""
    pairs = [(*pair, attribute) for pair in material.with_capital() for attribute in _CAPITAL]
    generator.shuffle(pairs)
    for country, city, attribute in pairs:
        facts = (material.country_fact(country, "capital"), material.city_fact(city, attribute))
        text = generator.choice(_CAPITAL[attribute]).format(c=country.label)
        key = f"capital {country.code} {attribute}"
        yield Question("capital", text, facts[-1].value, facts, names_of([country, city]), key)


def density(material: Material, generator: random.Random) -> Iterator[Question]:
    """Yield questions after the inhabitants of a country by its area, where rounding is clear and gives 1 or more."""
    countries = list(material.countries)
    generator.shuffle(countries)
    for country in countries:
        quotient = country.population / country.area
        if quotient < 1 or not _is_clear(quotient) or not material.has_own_name(country):
            continue
        yield Question(
            kind="density",
            text=generator.choice(_DENSITY).format(c=country.label),
            answer=str(round(quotient)),
            facts=tuple(material.country_fact(country, attribute) for attribute in ("population", "area")),
            entities=names_of([country]),
            key=f"density {country.code}",
            program=Program("round({0} / {1})", "the population divided by the area"),
        )


def share(material: Material, generator: random.Random) -> Iterator[Question]:
    """Yield questions after the share of the inhabitants that the capital has."""
    pairs = material.with_capital()
    generator.shuffle(pairs)
    for country, city in pairs:
        percentage = 100 * city.population / country.population
        if not 0.1 <= percentage < 100 or not _is_clear(10 * percentage) or not material.has_own_name(country):
            continue
        yield Question(
            kind="share",
            text=generator.choice(_SHARE).format(c=country.label),
            answer=str(round(percentage, 1)),
            facts=(
                material.country_fact(country, "capital"),
                material.country_fact(country, "population"),
                material.city_fact(city, "population"),
            ),
            entities=names_of([country, city]),
            key=f"share {country.code}",
            program=Program("round(100 * {2} / {1}, 1)", "the capital's part of the population in per cent"),
        )


def _is_clear(quotient: float) -> bool:
    return abs(quotient % 1 - 0.5) > _CLEAR
