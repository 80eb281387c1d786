"""The choice of the rows that are mathematics: by their ability, or else by the name of their data source.

verl doesn't hand the column `ability` to a reward function, so it has to be in `extra_info`.
"""

import functools
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)

MATHEMATICS_SOURCES = (
    # Any name with one of these in it.
    "math",
    "gsm8k",
    "gsm_",
    "olympiad",
    "numina",
    "minerva",
    "deepscaler",
    "openr1",
    "open-r1",
    "open_r1",
    "geometry3k",
    "putnam",
    "svamp",
    "asdiv",
    "mawps",
    "multiarith",
    "aqua_rat",
    "aqua-rat",
    "theoremqa",
    "prm800k",
    "tabmwp",
    "beyondaime",
    "acereason",
)
MATHEMATICS_WORDS = (
    # Names in which one of these stands without letters around it, as aime does in aime_2024 and AIME24.
    "aime",
    "amc",
    "hmmt",
    "brumo",
    "cmimc",
    "smt",
    "imo",
    "usamo",
    "orz",
    "limo",
    "polaris",
    "dapo",
    "cnk12",
    "cn_k12",
    "gaokao",
    "aops",
)
QUESTION_SOURCES = (
    # Any name with one of these in it: known, and compared as text.
    "searchr1",
    "search_r1",
    "hotpot",
    "2wiki",
    "musique",
    "bamboogle",
    "triviaqa",
    "trivia_qa",
    "popqa",
    "squad",
    "simpleqa",
    "webwalker",
    "webqa",
    "gaia",
    "xbench",
    "browsecomp",
    "frames",
    "strategyqa",
    "natural_questions",
    "naturalquestions",
    "nq_open",
    "tiny_world",
    "deepsearch",
    "medqa",
    "openbookqa",
    "commonsenseqa",
)
QUESTION_WORDS = ("nq", "hle", "qa", "asqa", "sciq")
_QUESTION_ABILITIES = re.compile(r"qa|question|fact|search|lookup|open|knowledge|text", re.IGNORECASE)


def _pattern(anywhere: tuple[str, ...], as_words: tuple[str, ...]) -> re.Pattern[str]:
    words = "|".join(map(re.escape, as_words))
    return re.compile(rf"{'|'.join(map(re.escape, anywhere))}|(?<![a-z])(?:{words})(?![a-z])", re.IGNORECASE)


_MATHEMATICS = _pattern(MATHEMATICS_SOURCES, MATHEMATICS_WORDS)
_QUESTIONS = _pattern(QUESTION_SOURCES, QUESTION_WORDS)


@dataclass(frozen=True)
class Subject:
    """The subject of a row: mathematics, or questions whose answers are text."""

    is_mathematics: bool
    is_guess: bool
    """Whether neither the ability nor the data source is known."""


def is_mathematics(data_source: str, extra_info: Any = None) -> bool:
    """Choose the comparison of a row, and warn once of a name that says nothing; see `subject_of`."""
    ability = extra_info.get("ability") if isinstance(extra_info, Mapping) else None
    subject = subject_of(str(data_source), None if ability is None else str(ability))
    if subject.is_guess:
        _warn_of_guess(str(data_source), ability and str(ability))
    return subject.is_mathematics


def subject_of(data_source: str, ability: str | None = None) -> Subject:
    """Tell mathematics from questions whose answers are text.

    | the first that is there   | mathematics if it has                                   | else    |
    |---------------------------|---------------------------------------------------------|---------|
    | `extra_info["ability"]`   | one of `MATHEMATICS_SOURCES` or `MATHEMATICS_WORDS`     | text F1 |
    | `data_source`             | one of them                                             | text F1 |

    >>> subject_of("numina_amc_aime"), subject_of("company_questions")
    (Subject(is_mathematics=True, is_guess=False), Subject(is_mathematics=False, is_guess=True))
    """
    if ability:
        is_maths = bool(_MATHEMATICS.search(ability))
        return Subject(is_maths, not is_maths and not _QUESTION_ABILITIES.search(ability))
    if _MATHEMATICS.search(data_source):
        return Subject(is_mathematics=True, is_guess=False)
    return Subject(is_mathematics=False, is_guess=not _QUESTIONS.search(data_source))


@functools.cache
def _warn_of_guess(data_source: str, ability: str | None) -> None:
    said = "there is no extra_info.ability" if ability is None else f"extra_info.ability={ability!r} says neither"
    logger.warning(
        "the answers of data_source=%r are compared as text, which is a guess: the name is not known and %s; expected "
        "extra_info.ability=math or qa: add it to the rows",
        data_source,
        said,
    )
