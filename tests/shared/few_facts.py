"""The atlas with an eighth of its cities, so that its index is built in a moment; a program too, with its words.

The cities are all capitals, those that share their names, and every fortieth of the others.
"""

import sys
from collections import Counter
from functools import cache

from arpo_verl.worlds.atlas import __main__ as command
from arpo_verl.worlds.atlas.facts import Facts, fold, load_facts


@cache
def few_facts() -> Facts:
    facts = load_facts()
    names = Counter(fold(city.name) for city in facts.cities)
    capitals = {country.capital for country in facts.countries.values()}
    kept = (
        city
        for number, city in enumerate(facts.cities)
        if city in capitals or names[fold(city.name)] > 1 or number % 40 == 0
    )
    return Facts(facts.countries, tuple(kept))


if __name__ == "__main__":
    command.load_facts = few_facts
    sys.exit(command.main())
