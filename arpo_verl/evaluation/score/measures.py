"""The measures of an answer, and which of them is a benchmark's accuracy.

Adding a measure is adding a function to `COMPARISONS` and a name to `LABELS`; making it the accuracy of a benchmark is
adding a line to `BENCHMARKS`. A user's own measure is named by its dotted path (`find_measure`).
"""

import math
import re
import string
from collections.abc import Callable, Sequence

from arpo_tools import dotted_path
from arpo_verl.reward.published import squad_exact_match, squad_f1
from arpo_verl.reward.subject import is_mathematics
from arpo_verl.reward.text_match import exact_match, token_f1

MATH_VERIFY, JUDGE, REWARD = "math_verify", "judge", "reward"
EXACT_MATCH, F1, QUASI_EXACT_MATCH = "exact_match", "f1", "quasi_exact_match"
SQUAD_EXACT_MATCH, SQUAD_F1 = "squad_exact_match", "squad_f1"

_UNITS = str.maketrans("", "", "$%,")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def quasi_exact_match(prediction: str, truths: Sequence[str]) -> float:
    """Return 1.0 if the prediction is an accepted answer up to units, spaces, case and punctuation, else 0.0.

    GAIA's measure, after the rules of the benchmark's official scorer (arXiv 2311.12983, section 3.2). The truth
    decides how an answer is read: as a number, as a list with , or ; between its elements, or as text. Unlike the
    official scorer, which turns an answer that is not a number into infinity, a truth such as `inf` or `nan` is text.
    """
    return float(any(_matches_gaia(prediction, truth) for truth in truths))


def _matches_gaia(prediction: str, truth: str) -> bool:
    if _number(truth) is not None:
        return _number(prediction.translate(_UNITS)) == _number(truth)
    if not re.search("[,;]", truth):
        return _text(prediction).translate(_PUNCTUATION) == _text(truth).translate(_PUNCTUATION)
    found, expected = re.split("[,;]", prediction), re.split("[,;]", truth)
    return len(found) == len(expected) and all(map(_matches_element, found, expected))


def _matches_element(prediction: str, truth: str) -> bool:
    """Compare an element of a list: its punctuation counts."""
    if _number(truth) is not None:
        return _number(prediction.translate(_UNITS)) == _number(truth)
    return _text(prediction) == _text(truth)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _text(text: str) -> str:
    return re.sub(r"\s", "", text).lower()


COMPARISONS: dict[str, Callable[[str, Sequence[str]], float]] = {
    EXACT_MATCH: exact_match,
    F1: token_f1,
    QUASI_EXACT_MATCH: quasi_exact_match,
    SQUAD_EXACT_MATCH: squad_exact_match,
    SQUAD_F1: squad_f1,
}
"""Functions of (prediction, accepted answers) to 0 to 1. `MATH_VERIFY` and `JUDGE` need more than a function."""

LABELS = {
    MATH_VERIFY: "math-verify",
    EXACT_MATCH: "exact match",
    F1: "F1",
    QUASI_EXACT_MATCH: "quasi exact match",
    SQUAD_EXACT_MATCH: "SQuAD exact match",
    SQUAD_F1: "SQuAD F1",
    JUDGE: "judge",
}
"""The names of the measures from 0 to 1 in tables."""

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
"""Beginning of a word in the `data_source` -> the benchmark's measures, the accuracy first. Others are maths or short
answers."""


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


def find_measure(name: str) -> str:
    """Return the name of a measure; a user's own function, `module.function`, is loaded and registered.

    Raises:
        ValueError: there is no such measure or function.
    """
    if name not in LABELS and dotted_path.is_dotted(name):
        function = dotted_path.load(name, "measure")
        if not callable(function):
            raise ValueError(f"measure {name!r} is {function!r}; expected a function: correct the path")
        COMPARISONS[name] = _checked(name, function)
        LABELS[name] = name.replace(":", ".").rpartition(".")[2].replace("_", " ")
    if name not in LABELS:
        raise ValueError(f"measure {name!r}; expected one of {', '.join(LABELS)}, or the dotted path of a function")
    return name


def _checked(name: str, function: Callable[[str, Sequence[str]], float]) -> Callable[[str, Sequence[str]], float]:
    def measure(prediction: str, accepted: Sequence[str]) -> float:
        where = f"measure {name}, prediction {prediction[:100]!r}"
        try:
            value = float(function(prediction, list(accepted)))
        except Exception as error:
            # Whatever a user's function raises.
            raise ValueError(
                f"{where}: it raised {type(error).__name__}: {error}; expected a number: mend it"
            ) from error
        if not 0 <= value <= 1 or math.isnan(value):
            raise ValueError(f"{where}: it returned {value}; expected 0 to 1, as shares are shown in percent: mend it")
        return value

    return measure
