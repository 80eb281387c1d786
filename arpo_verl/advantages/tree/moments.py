"""Mean and deviations of many sets of numbers at once."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Moments:
    """Mean and deviations of sets of numbers, one set for each entry."""

    count: torch.Tensor
    mean: torch.Tensor
    sum_of_squares: torch.Tensor
    """Of the differences from the mean."""

    @classmethod
    def of(
        cls,
        values: torch.Tensor,
        sets: torch.Tensor,
        number: int,
        weights: torch.Tensor | None = None,
        are_counts: bool = False,
    ) -> "Moments":
        """Return the moments of `number` sets.

        Args:
            values: members, of 64 bits.
            sets: the set of each member.
            number: how many sets there are.
            weights: of each member in the mean; 1 by default.
            are_counts: whether a weight says how often the member is in the set.
        """
        weights = torch.ones_like(values) if weights is None else weights
        zeros = torch.zeros(number, dtype=values.dtype, device=values.device)
        times = weights if are_counts else torch.ones_like(values)
        count = zeros.index_add(0, sets, times)
        weight = zeros.index_add(0, sets, weights)
        # Taken from the set's lowest member, the differences of equal members are 0, and so is their mean, unrounded.
        lowest = zeros.scatter_reduce(0, sets, values, "amin", include_self=False)
        above = values - lowest[sets]
        mean = zeros.index_add(0, sets, above * weights) / torch.where(weight > 0, weight, 1.0)
        squares = zeros.index_add(0, sets, times * (above - mean[sets]) ** 2)
        return cls(count, lowest + mean, squares)

    def std(self, is_sample: bool) -> torch.Tensor:
        """Return the standard deviation of each set, of n - 1 or of n."""
        return (self.sum_of_squares / (self.count - int(is_sample)).clamp(min=1)).sqrt()
