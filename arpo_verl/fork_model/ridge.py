"""Ridge regression on features by name, from sums over all examples so far, of which older ones count less."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from arpo_verl.fork_model.features import BIAS

MOST_FEATURES = 64
"""How many names are kept; those that come later are not looked at."""

Example = tuple[Mapping[str, float], float, float]
"""Features, the number that belongs to them, and the weight of the example."""


@dataclass(frozen=True)
class RidgeSums:
    """Weighted sums over examples: all that a fit needs, whatever their number."""

    names: tuple[str, ...]
    """In the order in which they came; `BIAS`, which is 1 in every example, first."""
    products: np.ndarray
    """Σ w x xᵀ. Shape (names, names)."""
    targets: np.ndarray
    """Σ w x y. Shape (names,)."""

    @classmethod
    def none(cls) -> "RidgeSums":
        """Return the sums over no examples."""
        return cls((BIAS,), np.zeros((1, 1)), np.zeros(1))

    @classmethod
    def from_memory(cls, memory: Mapping[str, Any]) -> "RidgeSums":
        """Return what `as_memory` has written."""
        size = len(memory["names"])
        products = np.array(memory["products"], dtype=float).reshape(size, size)
        return cls(tuple(memory["names"]), products, np.array(memory["targets"], dtype=float))

    def as_memory(self) -> dict[str, Any]:
        """Return the sums as texts, numbers and lists."""
        return {"names": list(self.names), "products": self.products.tolist(), "targets": self.targets.tolist()}

    @property
    def weight(self) -> float:
        """The weight of all examples together."""
        return float(self.products[0, 0])

    def after(self, examples: Sequence[Example], kept: float) -> "RidgeSums":
        """Return the sums over further examples and over `kept` times those before.

        Args:
            examples: each with `BIAS`.
            kept: from 0 to 1.
        """
        features, y, weight = zip(*examples, strict=True) if examples else ((), (), ())
        new = sorted(set().union(*features) - set(self.names))
        known = (*self.names, *new)[:MOST_FEATURES]
        size, old = len(known), len(self.names)
        products, targets = np.zeros((size, size)), np.zeros(size)
        products[:old, :old], targets[:old] = kept * self.products, kept * self.targets
        x = matrix(known, features)
        weighted = x * np.array(weight, dtype=float)[:, None]
        products += weighted.T @ x
        targets += weighted.T @ np.array(y, dtype=float)
        return RidgeSums(known, products, targets)

    def fit(self, strength: float) -> dict[str, float]:
        """Return the coefficient of each feature; none without examples.

        Args:
            strength: of the penalty, which acts on features of variance 1 and not on `BIAS`, in examples of weight 1:
                with as many of them, what is learnt is half believed.
        """
        if self.weight <= 0:
            return {}
        mean = self.products[0] / self.weight
        square = np.diag(self.products) / self.weight
        variance = np.maximum(square - mean**2, 0.0)
        # A feature that has not varied, but for rounding, says nothing: a penalty of its own size keeps it out of the
        # bias's way.
        has_varied = variance > np.maximum(1e-9 * square, 1e-12)
        penalty = strength * np.where(has_varied, variance, np.maximum(square, 1.0))
        penalty[0] = 0.0
        solved = np.linalg.solve(self.products + np.diag(penalty), self.targets)
        return dict(zip(self.names, solved.tolist(), strict=True))


def matrix(names: Sequence[str], features: Sequence[Mapping[str, float]]) -> np.ndarray:
    """Return the features of several examples, 0 where one has none of a name. Shape (examples, names)."""
    rows = [[one.get(name, 0.0) for name in names] for one in features]
    return np.array(rows, dtype=float).reshape(len(features), len(names))


def predicted(coefficients: Mapping[str, float], features: Sequence[Mapping[str, float]]) -> np.ndarray:
    """Return the fitted number for each of some features; those that the fit does not know count nothing."""
    numbers: np.ndarray = matrix(list(coefficients), features) @ np.array(list(coefficients.values()))
    return numbers
