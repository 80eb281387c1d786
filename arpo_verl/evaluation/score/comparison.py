"""The comparison of two runs on the same prompts: the difference of avg@n with a paired bootstrap over prompts.

The unit is the prompt: its samples are averaged first, and the same prompts are drawn for both runs, so what makes a
prompt hard for both cancels. The spread between samples of one prompt is part of the spread between prompts.
"""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from arpo_verl.evaluation.score.metrics import Estimate, mean_over_prompts
from arpo_verl.evaluation.score.scoring import ScoredPrompt
from arpo_verl.evaluation.score.summary import ACCURACY, ALL

_MOST_DRAWS = 1 << 22
"""The number of indices that are drawn at once: 32 MiB."""


@dataclass(frozen=True)
class Interval:
    """The interval of a mean difference, from the resamples."""

    low: float
    high: float
    """The 2.5th and 97.5th percentile."""
    p: float
    """Twice the smaller of the shares of resamples in which the difference is at most 0, or at least 0; 1 at most."""


@dataclass(frozen=True)
class Difference:
    """The difference of two runs on some prompts, B - A."""

    label: str
    measure: str
    a: Estimate
    b: Estimate
    difference: Estimate
    """B - A, with its paired standard error."""
    interval: Interval | None
    """None for a single prompt."""


def paired_bootstrap(differences: NDArray[np.float64], resamples: int, seed: int) -> Interval | None:
    """Return the percentile interval of the mean of one difference for each prompt, None for fewer than two prompts."""
    count = len(differences)
    if count < 2:
        return None
    generator = np.random.default_rng(seed)
    at_once = max(1, _MOST_DRAWS // count)
    means = np.concatenate(
        [
            differences[generator.integers(count, size=(min(at_once, resamples - start), count))].mean(axis=1)
            for start in range(0, resamples, at_once)
        ]
    ).round(12)  # equal sums in another order differ in the last digits
    low, high = np.percentile(means, [2.5, 97.5])
    tail = min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0))
    # A share of resamples is never quite 0: the data themselves count as one of them.
    return Interval(float(low), float(high), min(1.0, 2 * (int(tail) + 1) / (resamples + 1)))


def paired(
    a: Sequence[ScoredPrompt], b: Sequence[ScoredPrompt], only_common: bool = False
) -> list[tuple[ScoredPrompt, ScoredPrompt]]:
    """Return the pairs of prompts of the same id, in the order of the first run.

    Raises:
        ValueError: one run has prompts that the other has not, unless `only_common`; no prompt is in both; or the same
            id stands for different questions or answers.
    """
    first, second = ({prompt.id: prompt for prompt in prompts} for prompts in (a, b))
    if not only_common and first.keys() != second.keys():
        raise ValueError(
            f"the runs have different prompts: {_named(first.keys() - second.keys())} only in A, "
            f"{_named(second.keys() - first.keys())} only in B; finish both runs, or give --common to compare the "
            f"{len(first.keys() & second.keys())} that both have"
        )
    pairs = [(one, second[name]) for name, one in first.items() if name in second]
    if not pairs:
        raise ValueError("no prompt is in both runs: expected two runs on the same data")
    other = {one.id for one, two in pairs if (one.question, one.truths) != (two.question, two.truths)}
    if other:
        raise ValueError(f"{_named(other)} differ in question or answers: expected two runs on the same data")
    return pairs


def compare(
    pairs: Sequence[tuple[ScoredPrompt, ScoredPrompt]], metric: str, resamples: int, seed: int
) -> list[Difference]:
    """Return the differences by data source, and over all if there are several.

    Args:
        pairs: the prompts of A and B.
        metric: a measure, the reward (`score`) or a part of it, or `accuracy`: of each prompt the first measure of A's
            that B has too.
        resamples: the number of resamples of the bootstrap.
        seed: the seed of the bootstrap.

    Raises:
        ValueError: a prompt lacks the metric.
    """
    groups: defaultdict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for one, two in pairs:
        measure = _common_accuracy(one, two) if metric == ACCURACY else metric
        values = (_values(one, measure), _values(two, measure))
        groups[one.data_source, measure].append((statistics.fmean(values[0]), statistics.fmean(values[1])))
    differences = [_difference(*key, values, resamples, seed) for key, values in groups.items()]
    if len(groups) > 1:
        measures = {measure for _, measure in groups}
        everything = [pair for values in groups.values() for pair in values]
        name = measures.pop() if len(measures) == 1 else ACCURACY
        differences.append(_difference(ALL, name, everything, resamples, seed))
    return differences


def _difference(
    label: str, measure: str, means: Sequence[tuple[float, float]], resamples: int, seed: int
) -> Difference:
    differences = [b - a for a, b in means]
    return Difference(
        label,
        measure,
        mean_over_prompts([a for a, _ in means]),
        mean_over_prompts([b for _, b in means]),
        mean_over_prompts(differences),
        paired_bootstrap(np.array(differences), resamples, seed),
    )


def _common_accuracy(one: ScoredPrompt, two: ScoredPrompt) -> str:
    return next(measure for measure in one.values if measure in two.values)


def _values(prompt: ScoredPrompt, measure: str) -> list[float]:
    values: Mapping[str, list[float]] = {**prompt.rewards, **prompt.values}
    if measure not in values:
        raise ValueError(f"{prompt.id!r} has no {measure!r}; expected one of {', '.join([ACCURACY, *values])}")
    return values[measure]


def _named(ids: set[str]) -> str:
    shown = ", ".join(map(repr, sorted(ids)[:5]))
    return f"{len(ids)} ({shown}{', ...' if len(ids) > 5 else ''})" if ids else "none"
