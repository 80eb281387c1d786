"""Which names training questions may use, and which those of validation: no name is in both.

Countries are held out in patches, each a country with its neighbours, so that questions about neighbours can be asked
on both sides. A city belongs to the side of its country or state; a name that cities of both sides have is given to one
of them, and the cities of the other are asked about nowhere. A capital goes with its country, or is left out where its
name is another's on the other side.
"""

import random
from collections import defaultdict
from typing import Literal

from arpo_verl.worlds.atlas.facts import Facts, fold

Side = Literal["train", "validation"]

HELD_OUT = 0.25
"""The share of the countries, and of the states, that training never asks about."""
_LARGEST_PATCH = 6
"""A country and its neighbours: larger ones would be most of what is held out."""


def split_names(facts: Facts, seed: int) -> dict[str, Side]:
    """Return the side of each folded name; a name that is in neither has none."""
    generator = random.Random(f"atlas split {seed}")
    places = _split_places(facts, generator)
    sides: dict[str, Side] = dict(places)
    ambiguous: set[str] = set()
    for country in facts.countries.values():
        if country.capital is not None:
            side = places[fold(country.name)]
            if sides.setdefault(fold(country.capital.name), side) != side:
                ambiguous.add(fold(country.capital.name))
    found: dict[str, set[Side]] = defaultdict(set)
    for city in facts.cities:
        found[fold(city.name)].add(places[fold(city.place)])
    for name, possible in found.items():
        sides.setdefault(name, generator.choice(sorted(possible)))
    return {name: side for name, side in sides.items() if name not in ambiguous - set(places)}


def _split_places(facts: Facts, generator: random.Random) -> dict[str, Side]:
    """Return the side of each country and state."""
    codes = list(facts.countries)
    generator.shuffle(codes)
    held_out: set[str] = set()
    for code in codes:
        patch = {code, *facts.countries[code].neighbours}
        if len(patch) <= _LARGEST_PATCH and len(held_out) < HELD_OUT * len(codes):
            held_out |= patch
    states = sorted({city.place for city in facts.cities if city.place != city.country})
    names = {fold(state) for state in generator.sample(states, round(HELD_OUT * len(states)))}
    names |= {fold(country.name) for code, country in facts.countries.items() if code in held_out}
    every = [*states, *(country.name for country in facts.countries.values())]
    return {fold(name): "validation" if fold(name) in names else "train" for name in every}
