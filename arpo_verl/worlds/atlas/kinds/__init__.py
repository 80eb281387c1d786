"""The kinds of questions. Each yields its candidates in random order, none twice, until there are no more."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from arpo_verl.worlds.atlas.kinds import several, single
from arpo_verl.worlds.atlas.material import Material
from arpo_verl.worlds.atlas.question import Question


@dataclass(frozen=True)
class Kind:
    """A kind of questions."""

    steps: str
    """The number of calls on the shortest way to the answer."""
    what: str
    """What its questions are about."""
    candidates: Callable[[Material, random.Random], Iterator[Question]]

    @property
    def level(self) -> str:
        """The steps as reports name them."""
        return f"{self.steps} step{'' if self.steps == '1' else 's'}"


KINDS = {
    "lookup": Kind("1", "one fact of a country", single.lookup),
    "homonym": Kind("1", "a city that shares its name with others", single.homonym),
    "namesake": Kind("1", "the largest or smallest city of a name", several.namesake),
    "other": Kind("1", "the city of a name that is not where the others are", several.other),
    "capital": Kind("2", "a fact of a country's capital", single.capital),
    "density": Kind("2", "inhabitants by area, computed", single.density),
    "compare": Kind("2", "two countries or two cities", several.compare),
    "share": Kind("3", "the capital's share of the inhabitants, computed", single.share),
    "together": Kind("3", "a sum or a difference, computed", several.together),
    "neighbour": Kind("3 or 4", "a fact of the largest or smallest neighbour", several.neighbour),
    "gap": Kind("4", "a capital against another city, computed", several.gap),
}
"""The kinds by name, in the order of their steps."""
