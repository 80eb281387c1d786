"""The metrics of a run, with error bars: avg@n, pass@k, maj@n, standard errors.

A value is the score of one sample, from 0 to 1 for accuracies. The samples of one prompt are not independent, so the
prompt is the unit: every metric is worked out for each prompt first, and error bars are those of a mean over prompts.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts."""

    mean: float
    standard_error: float | None
    """None for a single prompt, which says nothing about the spread between prompts."""
    prompts: int


def mean_over_prompts(values: Sequence[float]) -> Estimate:
    """Return the mean of one value for each prompt, at least one, with the standard error s / √P.

    With equally many samples a prompt this is the cluster-robust standard error of the mean over samples, clusters
    being prompts, with the small-sample factor P / (P - 1).
    """
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Estimate(statistics.fmean(values), error, len(values))


def best_at_k(values: Sequence[float], k: int) -> float:
    """Return the mean of the best value over all subsets of `k` of one prompt's samples, without bias.

    For values of 0 and 1 it is pass@k = 1 - C(n-c, k) / C(n, k) with c of n samples correct (arXiv 2107.03374,
    equation 1). For others the i-th smallest value is the best of C(i-1, k-1) of the C(n, k) subsets. verl's `best@k`
    draws with replacement, which estimates 1 - (1 - c/n)^k and is lower.

    >>> best_at_k([1, 0, 1, 0, 0], 2)
    0.7

    Raises:
        ValueError: `k` is not from 1 to the number of samples.
    """
    count = len(values)
    if not 1 <= k <= count:
        raise ValueError(f"k={k} of {count} samples; expected 1 to {count}: take more samples a prompt or a smaller k")
    subsets = math.comb(count, k)
    return math.fsum(value * (math.comb(rank, k - 1) / subsets) for rank, value in enumerate(sorted(values)))


def majority(votes: Sequence[str | None], values: Sequence[float]) -> float:
    """Return the value of the commonest answer of one prompt's samples, 0 if there is no answer.

    Several commonest answers share the choice: the result is their mean, so that it does not depend on the order of
    samples, where verl's `maj@n` takes the first of them.

    Args:
        votes: the answer of each sample in a form that equal answers share, None where there is none.
        values: the value of each sample, parallel to `votes`; equal answers have their mean.
    """
    worth: defaultdict[str, list[float]] = defaultdict(list)
    for vote, value in zip(votes, values, strict=True):
        if vote is not None:
            worth[vote].append(value)
    most = max(map(len, worth.values()), default=0)
    return statistics.fmean([statistics.fmean(group) for group in worth.values() if len(group) == most] or [0.0])


def subset_sizes(samples: int) -> list[int]:
    """Return the k of pass@k that are worth a column: the powers of two below `samples`, and `samples`."""
    return [1 << power for power in range(samples.bit_length()) if 1 << power < samples] + [samples]
