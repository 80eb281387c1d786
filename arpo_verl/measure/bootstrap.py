"""Intervals by bootstrap over prompts, of quantities that are functions of means over prompts."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from arpo_verl.figures.estimates import t_quantile

RESAMPLES = 2000
FEWEST_PROMPTS = 8
"""Below this many the spread between prompts is not known well enough for an interval."""
NORMAL = NormalDist()
SMALLEST_SHARE = 0.05
"""Of the resamples on one side of the value: what more lopsided ones say of the bias is not believed."""
FEWEST_FINITE = 0.99
"""The share of resamples in which a quantity has to exist; where it does not, too few prompts bear on it."""

Values = npt.NDArray[Any]
"""Numbers of resamples, the first of all prompts. Shape (resamples + 1,)."""
Means = Mapping[str, Values]
"""Means over prompts by name."""


@dataclass(frozen=True)
class Interval:
    """A measured number with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def is_below_one(self) -> bool:
        return self.high < 1

    @property
    def is_above_one(self) -> bool:
        return self.low > 1


class Resampled:
    """Means over the prompts as they are and over resamples of them, all drawn once."""

    def __init__(self, sums: Mapping[str, np.ndarray], seed: int = 0, resamples: int = RESAMPLES) -> None:
        """Draw the resamples.

        Args:
            sums: a number of each prompt by name. Shape (prompts,).
            seed: of the draws.
            resamples: how many.
        """
        names = list(sums)
        self.prompts = len(sums[names[0]])
        draws = np.random.default_rng(seed).multinomial(
            self.prompts, np.full(self.prompts, 1 / self.prompts), resamples
        )
        counts = np.vstack([np.ones(self.prompts), draws])
        means = counts @ np.stack([sums[name] for name in names], axis=1) / self.prompts
        self.means: Means = {name: means[:, place] for place, name in enumerate(names)}
        # Percentiles are too narrow by √((n - 1) / n) and by the normal's quantile in the place of Student's t.
        freedom = max(1, self.prompts - 1)
        self._width = t_quantile(freedom) * math.sqrt(self.prompts / freedom)

    def interval(self, quantity: Callable[[Means], Values]) -> Interval | None:
        """Return a quantity with its interval: percentiles of the resamples, widened for few prompts.

        Each end is that of the percentiles or of the bias-corrected ones (Efron and Tibshirani 1993, section 14.3,
        without acceleration), whichever is farther out. They differ where a quantity has its largest value inside the
        range of what is measured, so that every error makes it smaller.

        Args:
            quantity: of means, elementwise.

        Returns:
            None where it does not exist, or not in 99 % of the resamples.
        """
        if self.prompts < FEWEST_PROMPTS:
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            values = np.asarray(quantity(self.means), dtype=float)
        is_finite = np.isfinite(values)
        if not is_finite[0] or is_finite[1:].mean() < FEWEST_FINITE:
            return None
        resamples = values[1:][is_finite[1:]]
        ends = np.quantile(resamples, self._levels(values[0], resamples))
        return Interval(float(values[0]), float(ends.min()), float(ends.max()))

    def _levels(self, value: float, resamples: Values) -> list[float]:
        """Return which share of the resamples is below each end, without and with correction."""
        near = 1e-12 * abs(value)
        below = ((resamples < value - near).mean() + (resamples <= value + near).mean()) / 2
        shift = NORMAL.inv_cdf(min(max(float(below), SMALLEST_SHARE), 1 - SMALLEST_SHARE))
        return [NORMAL.cdf(middle + side * self._width) for middle in (0.0, 2 * shift) for side in (-1, 1)]
