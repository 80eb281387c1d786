"""The corpus: short passages as an encyclopedia has them, each in one of several wordings.

A country has up to three passages, so that a search for one may bring another: an overview, its currency and codes, and
its borders. A city has one. Numbers are written in digits alone.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from arpo_verl.worlds.atlas.facts import City, Country, Facts, with_article


@dataclass(frozen=True)
class Document:
    """A passage of the corpus."""

    title: str
    contents: str


@dataclass(frozen=True)
class Corpus:
    """All passages, and which of them says what."""

    overviews: dict[str, Document]
    """By the country's code."""
    codes: dict[str, Document]
    borders: dict[str, Document]
    cities: dict[int, Document]
    """By the city's number."""

    def documents(self) -> list[Document]:
        """Return all of them, countries first."""
        parts = (self.overviews, self.codes, self.borders, self.cities)
        return [document for part in parts for document in part.values()]


_OVERVIEWS = (
    "{start} lies in {continent}. {capital} It has {population} inhabitants and an area of {area} square kilometres.",
    "{start} covers an area of {area} square kilometres in {continent} and has a population of {population}. {capital}",
    "{capital} {start} belongs to {continent}, has {population} inhabitants and is {area} square kilometres in area.",
    "In {continent}, {label} has a population of {population} on an area of {area} square kilometres. {capital}",
)
_CAPITALS = (
    "The capital of {label} is {capital}.",
    "Its capital is {capital}.",
    "{capital} is the capital of {label}.",
)
_CURRENCIES = ("The currency of {label} is the {value}.", "In {label} people pay with the currency {value}.")
_CALLING_CODES = ("The calling code of {label} is {value}.", "Telephone calls to {label} begin with the code {value}.")
_LETTERS = ("Its three-letter code is {value}.", "The three letters that stand for it are {value}.")
_BORDERS = (
    "{start} has land borders with {value}.",
    "The neighbours of {label} are {value}.",
    "{start} borders on {value}.",
)
_CITIES = (
    "{name} is a city in {where}. It has {population} inhabitants. Its time zone is {time_zone}.",
    "{name}, a city in {where}, has a population of {population} and lies in the time zone {time_zone}.",
    "The city of {name} in {where} is home to {population} inhabitants. Time zone: {time_zone}.",
    "{name} is a place in {where} with {population} inhabitants, in the time zone {time_zone}.",
)


def make_corpus(facts: Facts, seed: int) -> Corpus:
    """Write all passages; the wording of each depends on the seed and on what it is about alone."""
    corpus = Corpus({}, {}, {}, {})
    for code, country in facts.countries.items():
        generator = random.Random(f"atlas passages {seed} {code}")
        corpus.overviews[code] = Document(country.name, _overview(country, generator))
        if codes := _codes(country, generator):
            corpus.codes[code] = Document(f"Currency and codes of {country.label}", codes)
        if country.neighbours:
            value = enumeration([facts.countries[other].label for other in country.neighbours])
            text = generator.choice(_BORDERS).format(start=_start(country), label=country.label, value=value)
            corpus.borders[code] = Document(f"Borders of {country.label}", text)
    generator = random.Random(f"atlas passages {seed}")
    for city in facts.cities:
        corpus.cities[city.number] = Document(city.name, _city(city, generator.choice(_CITIES)))
    return corpus


def enumeration(names: Sequence[str]) -> str:
    """Return names as a sentence has them.

    >>> enumeration(["Chad", "Niger", "Mali"])
    'Chad, Niger and Mali'
    """
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _overview(country: Country, generator: random.Random) -> str:
    capital = ""
    template = generator.choice(_CAPITALS)
    if country.capital is not None:
        capital = template.format(label=country.label, capital=country.capital.name)
    text = generator.choice(_OVERVIEWS).format(
        start=_start(country),
        label=country.label,
        continent=country.continent,
        population=country.population,
        area=country.area,
        capital=capital,
    )
    text = " ".join(text.split())
    return text.replace("Its capital is", f"The capital of {country.label} is", 1) if text.startswith("Its ") else text


def _start(country: Country) -> str:
    """Return the name as it begins a sentence."""
    return country.label[0].upper() + country.label[1:]


def _codes(country: Country, generator: random.Random) -> str:
    parts = []
    for templates, value in (
        (_CURRENCIES, country.currency),
        (_CALLING_CODES, country.calling_code),
        (_LETTERS, country.letters),
    ):
        template = generator.choice(templates)
        if value is not None:
            parts.append(template.format(label=country.label, value=value))
    return " ".join(parts)


def _city(city: City, template: str) -> str:
    where = f"{city.place}, United States" if city.place != city.country else with_article(city.country)
    return template.format(name=city.name, where=where, population=city.population, time_zone=city.time_zone)
