"""Measures of one's own by their dotted path: functions from a prediction and the accepted answers to 0 to 1."""

import math
from collections.abc import Callable, Sequence

from arpo_tools import dotted_path
from arpo_verl.evaluation.measures import COMPARISONS, LABELS


def measure_named(name: str) -> str:
    """Return the name of a measure; one of somebody's own, `module.function`, is loaded and known from then on.

    Raises:
        ValueError: there is no such measure or function.
    """
    if name not in LABELS and dotted_path.is_dotted(name):
        function = dotted_path.load(name, "measure")
        if not callable(function):
            raise ValueError(f"measure {name!r} is {function!r}; expected a function: correct the path")
        COMPARISONS[name] = _checked(name, function)
        LABELS[name] = name.rpartition(".")[2].replace("_", " ")
    if name not in LABELS:
        raise ValueError(f"measure {name!r}; expected one of {', '.join(LABELS)}, or the dotted path of a function")
    return name


def _checked(name: str, function: Callable[[str, Sequence[str]], float]) -> Callable[[str, Sequence[str]], float]:
    def measure(prediction: str, accepted: Sequence[str]) -> float:
        where = f"measure {name}, prediction {prediction[:100]!r}"
        try:
            value = float(function(prediction, list(accepted)))
        except Exception as error:
            # Whatever somebody else's function raises.
            raise ValueError(
                f"{where}: it raised {type(error).__name__}: {error}; expected a number: mend it"
            ) from error
        if not 0 <= value <= 1 or math.isnan(value):
            raise ValueError(f"{where}: it returned {value}; expected 0 to 1, as shares are shown in percent: mend it")
        return value

    return measure
