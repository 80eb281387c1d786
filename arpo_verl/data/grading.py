"""The way in which the reward will compare the answers of a row, and whether that is a guess."""

import re

from arpo_verl.data.checks import Row, extra_info
from arpo_verl.reward.subject import subject_of

ABILITY_MATH, ABILITY_QA = "math", "qa"

_MATHEMATICS = re.compile(r"math|arithmetic|algebra|geometry|calculus|number[ _-]?theory|combinatorics")
_QUESTIONS = re.compile(
    r"(?<![a-z])(?:nq|hle|gaia|hop|rag|facts?|factual)(?![a-z])|qa(?![a-z])|question|trivia|squad|hotpot|musique|wiki"
    r"|bamboogle|xbench|browsecomp|browsing|web[ _-]?walker|(?<!re)search|retrieval|knowledge"
)
"""What begins or is a word of abilities and of names of datasets whose answers are compared as text."""


def ability_of(said: str) -> str | None:
    """Return `math` or `qa` for the ability that a dataset gives its rows, or None where it says neither.

    >>> ability_of("MATH"), ability_of("fact-reasoning"), ability_of("code")
    ('math', 'qa', None)
    """
    word = said.strip().casefold()
    if _MATHEMATICS.search(word):
        return ABILITY_MATH
    return ABILITY_QA if _QUESTIONS.search(word) else None


def ability_of_source(data_source: str) -> str | None:
    """Return `math` or `qa` for the name of a dataset that is known, or None."""
    if subject_of(data_source).is_mathematics:
        return ABILITY_MATH
    return ABILITY_QA if _QUESTIONS.search(data_source.casefold()) else None


def grading_doubt(row: Row) -> str | None:
    """Return why the way in which the reward compares the row's answers may be the wrong one, or None.

    The same text for all rows of a data source. It assumes the reward of `arpo_verl.reward`, which knows
    `extra_info.ability` and the data source; verl does not hand it the column `ability`.
    """
    extra, source = extra_info(row), str(row.get("data_source") or "")
    said, column = str(extra.get("ability") or "").strip(), str(row.get("ability") or "").strip()
    is_maths = subject_of(source, said or None).is_mathematics
    as_what = "mathematics" if is_maths else "text"
    expected = "say math or qa in extra_info.ability, as `arpo-verl data convert` does (--ability)"
    if said:
        is_odd = ability_of(said) == ABILITY_MATH and not is_maths
        return (
            f"have extra_info.ability {said!r}, which the reward compares as {as_what}; {expected}" if is_odd else None
        )
    where = f"of data source {source!r} have no extra_info.ability"
    known = ability_of(column)
    if known and (known == ABILITY_MATH) != is_maths:
        return (
            f"{where}; the column 'ability' says {column!r}, but verl does not hand it to a reward: compared as "
            f"{as_what}; {expected}"
        )
    if known or ability_of_source(source):
        return None
    return f"{where}, and that name says neither: compared as {as_what}, which is a guess; {expected}"
