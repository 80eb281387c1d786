"""What an answer can be measured by, and which measure is a benchmark's accuracy.

Adding a measure is adding a function to `COMPARISONS` and a name to `LABELS`; making it the accuracy of a benchmark is
adding a line to `BENCHMARKS`.
"""

import re
from collections.abc import Callable, Sequence

from arpo_verl.evaluation.gaia import quasi_exact_match
from arpo_verl.reward.published import squad_exact_match, squad_f1
from arpo_verl.reward.subject import is_mathematics
from arpo_verl.reward.text_match import exact_match, token_f1

MATH_VERIFY, JUDGE, REWARD = "math_verify", "judge", "reward"
EXACT_MATCH, F1, QUASI_EXACT_MATCH = "exact_match", "f1", "quasi_exact_match"
SQUAD_EXACT_MATCH, SQUAD_F1 = "squad_exact_match", "squad_f1"

COMPARISONS: dict[str, Callable[[str, Sequence[str]], float]] = {
    EXACT_MATCH: exact_match,
    F1: token_f1,
    QUASI_EXACT_MATCH: quasi_exact_match,
    SQUAD_EXACT_MATCH: squad_exact_match,
    SQUAD_F1: squad_f1,
}
"""(prediction, accepted answers) -> 0 to 1. `MATH_VERIFY` and `JUDGE` need more than a function."""

LABELS = {
    MATH_VERIFY: "math-verify",
    EXACT_MATCH: "exact match",
    F1: "F1",
    QUASI_EXACT_MATCH: "quasi exact match",
    SQUAD_EXACT_MATCH: "SQuAD exact match",
    SQUAD_F1: "SQuAD F1",
    JUDGE: "judge",
}
"""Of the measures from 0 to 1, as tables show them."""

_MATHS = (MATH_VERIFY,)
_SHORT_ANSWERS = (F1, EXACT_MATCH)
_JUDGED = (JUDGE, EXACT_MATCH, F1)

BENCHMARKS = {
    "gaia": (QUASI_EXACT_MATCH,),
    "simpleqa": _JUDGED,
    "webwalker": _JUDGED,
    "hle": _JUDGED,
    "xbench": _JUDGED,
    "browsecomp": _JUDGED,
}
"""What begins a word of the `data_source` -> its measures, the accuracy first. Others are maths or short answers."""


def measures_of(data_source: str, ability: str, is_judged: bool) -> tuple[str, ...]:
    """Return the measures of a row, the first being its accuracy.

    A benchmark whose accuracy is the judge's has its exact match for one until it is judged.

    >>> measures_of("callanwu/WebWalkerQA", "qa", is_judged=False)
    ('exact_match', 'f1')
    """
    wanted = wanted_measures(data_source, ability)
    if is_judged:
        return wanted if JUDGE in wanted else (*wanted, JUDGE)
    return tuple(measure for measure in wanted if measure != JUDGE)


def wanted_measures(data_source: str, ability: str) -> tuple[str, ...]:
    """Return the measures that a row should have, the first being its accuracy."""
    words = re.split(r"[\W_]+", data_source.lower())
    for benchmark, measures in BENCHMARKS.items():
        if any(word.startswith(benchmark) for word in words):
            return measures
    return _MATHS if is_mathematics(data_source, {"ability": ability}) else _SHORT_ANSWERS
