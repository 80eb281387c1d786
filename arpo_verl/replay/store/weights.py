"""The weight of replayed rows over the steps, and what their rewards are compared with (SPEAR, arXiv 2509.22601)."""

import math
import statistics
from collections.abc import Sequence


def cosine_weight(step: int, steps: int) -> float:
    """Return (1 - cos(π t / T)) / 2, which rises from 0 at t = 0 to 1 at T and stays there (SPEAR's warm-up).

    >>> [round(cosine_weight(t, 200), 6) for t in (0, 50, 100, 200, 300)]
    [0.0, 0.146447, 0.5, 1.0, 1.0]

    Args:
        step: t.
        steps: T; 0 is a weight of 1 from the first step on.
    """
    return 1.0 if step >= steps else (1 - math.cos(math.pi * step / steps)) / 2


def median(means: Sequence[float]) -> float:
    """Return the 50th percentile of group means, or NaN where there is none."""
    return statistics.median(means) if means else math.nan
