"""Means with their 95 % intervals, and curves on a common grid."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import mpmath
import numpy as np

CONFIDENCE = 0.95
GRID_POINTS = 41


@dataclass(frozen=True)
class Estimate:
    """A mean and half the width of its 95 % interval, which one value leaves infinite."""

    mean: float
    half_width: float

    @property
    def is_different_from_zero(self) -> bool:
        return abs(self.mean) > self.half_width


@lru_cache
def t_quantile(degrees_of_freedom: int, confidence: float = CONFIDENCE) -> float:
    """Return t with P(|T| <= t) = `confidence` for Student's T."""

    def excess(x: float) -> Any:
        # P(|T| > t) is the regularised incomplete beta function at x = ν / (ν + t²).
        return mpmath.betainc(degrees_of_freedom / 2, 0.5, 0, x, regularized=True) - (1 - confidence)

    x = float(mpmath.findroot(excess, (0, 1), solver="ridder"))
    return math.sqrt(degrees_of_freedom * (1 - x) / x)


def estimate(values: Sequence[float]) -> Estimate:
    """Return mean and interval of independent values: one a seed, or one a prompt."""
    if len(values) < 2:
        return Estimate(statistics.fmean(values), math.inf)
    error = statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(statistics.fmean(values), t_quantile(len(values) - 1) * error)


@dataclass(frozen=True)
class Curve:
    """Reward against what it cost to get there; `spent` never falls."""

    spent: list[float]
    reward: list[float]

    def smoothed(self, width: int) -> "Curve":
        """Return the curve with each reward averaged over `width` neighbouring steps (odd), fewer at the ends."""
        reach = width // 2
        windows = [self.reward[max(0, step - reach) : step + reach + 1] for step in range(len(self.reward))]
        return Curve(self.spent, [statistics.fmean(window) for window in windows])


def align(curves: Sequence[Curve], end: float | None = None) -> tuple[list[float], list[list[float]]]:
    """Return a common grid from 0 and each curve's reward on it, by linear interpolation.

    Args:
        curves: start at 0.
        end: of the grid; by default where the shortest curve ends, so that none is extrapolated.

    Raises:
        ValueError: a curve ends before `end`.
    """
    shortest = min(curve.spent[-1] for curve in curves)
    end = shortest if end is None else end
    if end > shortest:
        raise ValueError(f"end={end} exceeds the shortest curve, which ends at {shortest}; expected at most that")
    grid = np.linspace(0, end, GRID_POINTS)
    return grid.tolist(), [np.interp(grid, curve.spent, curve.reward).tolist() for curve in curves]
