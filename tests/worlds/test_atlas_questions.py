"""Every question has one right answer, worked out a second time from the passages; sides share no name."""

import random
import re
from collections import Counter, defaultdict
from fractions import Fraction
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arpo_verl.worlds.atlas.facts import City, Country, Facts, fold, load_facts
from arpo_verl.worlds.atlas.kinds import KINDS
from arpo_verl.worlds.atlas.material import make_material
from arpo_verl.worlds.atlas.passages import make_corpus
from arpo_verl.worlds.atlas.question import Choice
from arpo_verl.worlds.atlas.split import split_names

SEEDS = (0, 1)


@pytest.fixture(scope="module")
def facts() -> Facts:
    return load_facts()


def materials(facts: Facts, seed: int) -> dict:
    corpus, sides = make_corpus(facts, seed), split_names(facts, seed)
    return {side: make_material(facts, corpus, sides, side) for side in ("train", "validation")}


def questions_of(material, kind: str, most: int = 250) -> list:
    return list(islice(KINDS[kind].candidates(material, random.Random(f"test {kind}")), most))


@pytest.fixture(scope="module")
def worlds(facts) -> dict:
    return {seed: materials(facts, seed) for seed in SEEDS}


@pytest.fixture(scope="module")
def asked(worlds) -> dict:
    """Return some 8 000 questions by seed, side and kind."""
    return {
        (seed, side, kind): questions_of(material, kind)
        for seed, sides in worlds.items()
        for side, material in sides.items()
        for kind in KINDS
    }


@pytest.fixture(scope="module")
def stated(worlds) -> dict[str, dict[tuple[str, str], set[str]]]:
    """What the passages of each seed say, read by patterns of our own: {(about, attribute): values}."""
    return {seed: read_corpus(sides["train"].corpus) for seed, sides in worlds.items()}


CITY = re.compile(
    r".*? is a city in (.*?)\. It has|.*?, a city in (.*?), has a population|The city of .*? in (.*?) is home"
    r"|.*? is a place in (.*?) with \d"
)
NUMBER = {"population": r"(\d+) inhabitants|population of (\d+)", "area": r"(\d+) square kilometres"}


def read_corpus(corpus) -> dict[tuple[str, str], set[str]]:
    found = defaultdict(set)
    for document in corpus.documents():
        text = document.contents
        if place := CITY.match(text.replace(document.title, "it", 1)):
            about = re.sub(" in the ", " in ", f"{document.title} in {next(filter(None, place.groups()))}")
            about = about.removesuffix(", United States")
        else:
            about = re.sub(r"^(Currency and codes|Borders) of (the )?", "", document.title)
        for attribute, pattern in NUMBER.items():
            for match in re.findall(pattern, text):
                found[fold(about), attribute] |= {
                    part for part in (match if isinstance(match, tuple) else [match]) if part
                }
    return found


def subject_of(fact) -> str:
    return fold(re.sub(r"(?<= in )the |^the ", "", fact.subject))


def all_of(asked: dict, *kinds: str) -> list:
    return [(key, question) for key, some in asked.items() if key[2] in (kinds or KINDS) for question in some]


def test_each_kind_has_questions_on_both_sides_and_none_twice(asked):
    for key, some in asked.items():
        assert len(some) >= 40, key
        assert len({question.key for question in some}) == len(some)


def test_every_number_that_a_question_builds_on_is_stated_once_in_the_corpus(asked, stated):
    checked = 0
    for (seed, _, _), question in all_of(asked):
        for fact in question.facts:
            if fact.attribute in NUMBER:
                about = subject_of(fact) if fact.namesakes or " in " in fact.subject else fold(fact.name)
                assert stated[seed][about, fact.attribute] == {fact.value}, question.text
                checked += 1
    assert checked > 8_000


def test_every_value_stands_in_its_passage(asked):
    for _, question in all_of(asked):
        assert all(fact.value in fact.passage for fact in question.facts), question.text


def test_a_computed_answer_is_what_exact_arithmetic_gives_however_halves_are_rounded(asked):
    kinds = ("density", "share", "together", "gap")
    for (_, _, kind), question in all_of(asked, *kinds):
        numbers = [Fraction(fact.value) for fact in question.facts if fact.value.isdecimal()]
        if kind == "density":
            exact, digits = numbers[0] / numbers[1], 0
        elif kind == "share":
            exact, digits = 100 * numbers[1] / numbers[0], 1
        else:
            is_sum = re.search("together|sum", question.text)
            exact, digits = (sum(numbers[-2:]) if is_sum else abs(numbers[-2] - numbers[-1])), 0
            assert exact > 0
        scaled = exact * 10**digits
        assert {int(scaled + Fraction(1, 2) + shift) for shift in (Fraction(-1, 100), 0, Fraction(1, 100))} == {
            int(Fraction(question.answer) * 10**digits)
        }
        assert eval(question.program.code([fact.value for fact in question.facts])) == float(question.answer)


def test_what_is_chosen_has_no_tie(asked):
    for _, question in all_of(asked, "compare", "namesake", "neighbour"):
        choice = question.choice
        values = [int(fact.value) for fact in question.facts[choice.first : choice.end]]
        assert len(set(values)) == len(values)
        best = max(values) if choice.comparison == "largest" else min(values)
        winner = question.facts[choice.first + values.index(best)]
        assert choice.comparison == ("smallest" if re.search(r"few|small|less", question.text) else "largest")
        if choice.answers:
            assert question.answer == choice.answers[values.index(best)]
            assert question.answer in winner.subject
        else:
            assert question.facts[-1].subject == winner.subject


def test_a_question_about_a_city_names_a_place_that_has_one_city_of_that_name(asked, facts):
    labels = Counter(fold(city.label) for city in facts.cities)
    names = Counter(fold(city.name) for city in facts.cities)
    for (_, _, kind), question in all_of(asked, "homonym", "compare", "together", "gap", "namesake"):
        for fact in question.facts:
            if " in " in fact.subject:
                assert labels[fold(fact.subject)] == 1
        if kind == "homonym":
            assert names[fold(question.facts[0].name)] > 1
            assert question.facts[0].subject in question.text
        if kind == "namesake":
            assert len(question.facts) == names[fold(question.facts[0].name)] in (2, 3)


def test_the_other_city_of_a_name_is_the_one_whose_place_is_not_named(asked, facts):
    places = defaultdict(set)
    for city in facts.cities:
        places[fold(city.name)].add(city.place)
    for _, question in all_of(asked, "other"):
        [fact] = question.facts
        named = {place for place in places[fold(fact.name)] if re.search(rf"in (the )?{place}\b", question.text)}
        [left] = places[fold(fact.name)] - named
        assert fact.subject.removeprefix(f"{fact.name} in ").removeprefix("the ") == left


def test_a_country_that_has_a_citys_name_is_never_asked_for_its_population_without_more(asked, facts):
    cities = {fold(city.name) for city in facts.cities}
    for _, question in all_of(asked, "lookup", "density", "compare", "together", "share"):
        for fact in question.facts:
            if fact.attribute == "population" and " in " not in fact.subject:
                assert fold(fact.name) not in cities, question.text


@pytest.mark.parametrize("seed", SEEDS)
def test_no_name_of_a_validation_question_is_in_a_training_question(asked, seed):
    entities = {
        side: frozenset().union(*(question.entities for key, question in all_of(asked) if key[:2] == (seed, side)))
        for side in ("train", "validation")
    }
    assert len(entities["validation"]) > 300
    assert entities["train"] & entities["validation"] == frozenset()


@pytest.mark.parametrize("seed", SEEDS)
def test_all_names_of_countries_states_and_cities_in_a_text_are_entities_of_the_question(asked, facts, seed):
    """So that the test above means what it says: texts are searched for names, the longest first."""
    names = {city.place for city in facts.cities} | {country.name for country in facts.countries.values()}
    pattern = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in sorted(names, key=len, reverse=True)))
    for key, question in all_of(asked):
        if key[0] != seed:
            continue
        found = {fold(name) for name in pattern.findall(question.text)}
        # `Mexico` in `the Mexico City in ...` is a part of a name.
        assert all(any(name in one for one in question.entities) for name in found), question.text


def test_the_held_out_share_is_near_what_is_meant(worlds):
    for sides in worlds.values():
        counts = {side: len(material.countries) for side, material in sides.items()}
        assert 0.2 < counts["validation"] / sum(counts.values()) < 0.3


def test_a_neighbour_question_has_all_neighbours_on_its_side(worlds, asked):
    for (seed, side, _), question in all_of(asked, "neighbour"):
        names = {fold(country.name) for country in worlds[seed][side].countries}
        assert all(fold(fact.name) in names for fact in question.facts)
        assert len(question.facts) in (4, 5)


def test_the_steps_of_a_kind_are_its_passages_and_its_program(asked):
    for (_, _, kind), question in all_of(asked):
        if kind == "namesake":
            continue  # one search shows all
        steps = len({fact.passage for fact in question.facts}) + (question.program is not None)
        assert str(steps) in KINDS[kind].steps, question.text


def city(number: int, name: str, place: str, population: int) -> City:
    return City(number, name, place, place, population, "Zone/Here")


def small_facts(populations: tuple[int, int], areas: tuple[int, int]) -> Facts:
    """Return two countries of one side, each with its capital and a city called Twin."""
    cities = (
        city(1, "Alphaville", "Alpha", 50),
        city(2, "Betaville", "Beta", 60),
        city(3, "Twin", "Alpha", populations[0]),
        city(4, "Twin", "Beta", populations[1]),
    )
    countries = {
        code: Country(code, name, "Europe", population, area, cities[index], "Euro", "1", code * 2, ())
        for index, (code, name, population, area) in enumerate(
            [("A", "Alpha", populations[0], areas[0]), ("B", "Beta", populations[1], areas[1])]
        )
    }
    return Facts(countries, cities)


def small_material(facts: Facts):
    names = {fold(thing.name) for thing in (*facts.countries.values(), *facts.cities)}
    return make_material(facts, make_corpus(facts, 0), dict.fromkeys(names, "train"), "train")


def test_ties_are_refused():
    tied = small_material(small_facts((1000, 1000), (7, 7)))
    assert questions_of(tied, "namesake") == []
    compared = questions_of(tied, "compare") + questions_of(tied, "together")
    assert {"Twin", "Alpha"} & {fact.name for question in compared for fact in question.facts} <= {"Twin"}
    assert all(question.facts[0].value != question.facts[1].value for question in compared)


def test_without_ties_they_are_asked():
    material = small_material(small_facts((1000, 2000), (7, 8)))
    assert {question.answer for question in questions_of(material, "namesake")} == {"Alpha", "Beta"}
    sums = {question.answer for question in questions_of(material, "together")}
    assert sums & {"3000", "1000"}


@pytest.mark.parametrize(
    ("population", "area", "answers"),
    [
        (1000, 7, ["143"]),  # 142.857
        (1001, 2, []),  # 500.5: a half
        (99_999, 200, ["500"]),  # 499.995: far from a half
        (10_049, 100, []),  # 100.49: within 0.02 of a half
        (10_047, 100, ["100"]),  # 100.47
        (5, 10, []),  # below 1
    ],
)
def test_a_density_is_asked_for_where_its_rounding_is_clear(population, area, answers):
    material = small_material(small_facts((population, 10**9 + 1), (area, 2 * 10**9)))
    assert [question.answer for question in questions_of(material, "density")] == answers


@pytest.mark.parametrize(("capital", "expected"), [(50, "5.0"), (60, "3.0")])
def test_a_share_has_one_decimal(capital, expected):
    material = small_material(small_facts((1000, 2000), (7, 8)))
    assert expected in {question.answer for question in questions_of(material, "share")}


@given(
    st.lists(st.integers(0, 10**9), min_size=1, max_size=5, unique=True),
    st.sampled_from(["largest", "smallest"]),
    st.integers(0, 2),
)
def test_a_choice_is_the_extreme_of_what_is_compared(values, comparison, before):
    texts = ["a, b"] * before + [str(value) for value in values] + ["later"]
    choice = Choice(comparison, before, before + len(values))
    extreme = max(values) if comparison == "largest" else min(values)
    assert texts[choice.winner(texts)] == str(extreme)
