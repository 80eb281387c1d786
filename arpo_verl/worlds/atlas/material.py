"""What questions of one side may be about, and the facts of it with their passages and queries."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from arpo_verl.worlds.atlas.facts import City, Country, Facts, fold
from arpo_verl.worlds.atlas.passages import Corpus, enumeration
from arpo_verl.worlds.atlas.question import Fact, Namesake
from arpo_verl.worlds.atlas.split import Side

_PLAIN_NAME = re.compile(r"[A-Za-zÀ-ɏḀ-ỿ]+(?:[ '’.-]{1,2}[A-Za-zÀ-ɏḀ-ỿ]+){0,3}")
"""Names of up to four words: no lists of names, quarters with numbers and notes in brackets."""

OVERVIEW = ("capital", "population", "area", "continent")
CODES = ("currency", "calling code", "three-letter code")
_SYNONYMS = {
    "capital": "capital city",
    "population": "inhabitants",
    "area": "square kilometres",
    "continent": "lies in which continent",
    "currency": "pay with which currency",
    "calling code": "telephone code",
    "three-letter code": "three letters",
    "neighbours": "land borders",
}
_SUREST = {
    "overview": "{name} capital inhabitants area square kilometres",
    "codes": "currency and codes of {name}",
    "borders": "borders of {name}",
}


@dataclass(frozen=True)
class Material:
    """Countries and cities whose names are all of one side."""

    facts: Facts
    corpus: Corpus
    countries: tuple[Country, ...]
    """Those whose name is no state's: nobody can tell which Georgia is meant."""
    cities: tuple[City, ...]
    """Those with a plain name that no other of the same place has."""
    namesakes: Mapping[str, tuple[City, ...]]
    """All cities of the world by their folded name."""

    def has_own_name(self, country: Country) -> bool:
        """Return whether no city has the country's name, so that its population can be asked for."""
        return fold(country.name) not in self.namesakes

    def sharing_names(self) -> list[City]:
        """Return the cities whose name another city of the world has too."""
        return [city for city in self.cities if len(self.namesakes[fold(city.name)]) > 1]

    def with_capital(self) -> list[tuple[Country, City]]:
        """Return the countries whose capital is among the cities, with it."""
        cities = set(self.cities)
        return [(one, one.capital) for one in self.countries if one.capital is not None and one.capital in cities]

    def neighbours(self, country: Country) -> tuple[Country, ...]:
        """Return its neighbours, or `()` where one of them is of the other side."""
        known = set(self.countries)
        found = tuple(self.facts.countries[code] for code in country.neighbours)
        return found if all(one in known for one in found) else ()

    def country_fact(self, country: Country, attribute: str) -> Fact:
        """Return a fact about a country that its passages state."""
        if attribute == "neighbours":
            topic, passage = "borders", self.corpus.borders[country.code]
        elif attribute in OVERVIEW:
            topic, passage = "overview", self.corpus.overviews[country.code]
        else:
            topic, passage = "codes", self.corpus.codes[country.code]
        name = country.name
        return Fact(
            subject=country.label,
            attribute=attribute,
            value=self._value(country, attribute),
            passage=passage.contents,
            queries=(
                f"{name} {attribute}",
                f"{attribute} of {country.label}",
                f"{name} {_SYNONYMS[attribute]}",
            ),
            surest=_SUREST[topic].format(name=name),
            name=name,
        )

    def _value(self, country: Country, attribute: str) -> str:
        if attribute == "neighbours":
            return enumeration([self.facts.countries[code].label for code in country.neighbours])
        value = {
            "capital": None if country.capital is None else country.capital.name,
            "population": country.population,
            "area": country.area,
            "continent": country.continent,
            "currency": country.currency,
            "calling code": country.calling_code,
            "three-letter code": country.letters,
        }[attribute]
        if value is None:
            raise ValueError(f"{country.name} has no {attribute}; expected one that is known")
        return str(value)

    def city_fact(self, city: City, attribute: str, sought: str = "") -> Fact:
        """Return a fact about a city.

        Args:
            sought: what it is called where its place is not known beforehand, so that a query has no place in it.
        """
        place = city.place
        precise = (f"{city.name} {place}", f"{city.name} city in {place}", f"{city.name} {place} {attribute}")
        others = (other for other in self.namesakes[fold(city.name)] if other != city)
        return Fact(
            subject=city.label,
            attribute=attribute,
            value=_city_value(city, attribute),
            passage=self.corpus.cities[city.number].contents,
            queries=(city.name,) if sought else precise,
            surest=city.name if sought else precise[0],
            name=city.name,
            sought=sought,
            namesakes=tuple(
                Namesake(other.label, _city_value(other, attribute), self.corpus.cities[other.number].contents)
                for other in others
            ),
        )


def make_material(facts: Facts, corpus: Corpus, sides: Mapping[str, Side], side: Side) -> Material:
    """Return what questions of one side may be about."""
    by_name: dict[str, list[City]] = defaultdict(list)
    labels: Counter[str] = Counter()
    for city in facts.cities:
        by_name[fold(city.name)].append(city)
        labels[fold(city.label)] += 1
    states = {fold(city.place) for city in facts.cities if city.place != city.country}
    countries = (country for country in facts.countries.values() if sides[fold(country.name)] == side)
    cities = (
        city
        for city in facts.cities
        if labels[fold(city.label)] == 1 and _PLAIN_NAME.fullmatch(city.name) and _is_of(side, sides, city)
    )
    return Material(
        facts,
        corpus,
        tuple(country for country in countries if fold(country.name) not in states),
        tuple(cities),
        {name: tuple(found) for name, found in by_name.items()},
    )


def names_of(things: Iterable[Country | City]) -> frozenset[str]:
    """Return the folded names of countries and cities, and of the places that the cities lie in."""
    names = {fold(thing.name) for thing in things}
    return frozenset(names | {fold(thing.place) for thing in things if isinstance(thing, City)})


def _is_of(side: Side, sides: Mapping[str, Side], city: City) -> bool:
    return sides.get(fold(city.name)) == sides[fold(city.place)] == side


def _city_value(city: City, attribute: str) -> str:
    return {"population": str(city.population), "time zone": city.time_zone}[attribute]
