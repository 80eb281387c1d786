"""Rewards against those of the same prompt's other leaves, in double precision."""

import torch


def group_relative(
    rewards: torch.Tensor, prompt: torch.Tensor, is_counted: torch.Tensor, divides_by_std: bool, epsilon: float
) -> torch.Tensor:
    """Return each reward minus its prompt's mean, over the prompt's (n - 1) standard deviation plus epsilon.

    The only leaf of a prompt keeps its reward, as in verl's `grpo`; the only one left of several has 0.

    Args:
        rewards: shape (batch,), of 64 bits.
        prompt: the number of each row's prompt, from 0. Shape (batch,).
        is_counted: rows that have a part in the statistics; the result of the others is 0. Shape (batch,).
        divides_by_std: whether to divide.
        epsilon: at least 0.

    Returns:
        Shape (batch,).
    """
    groups = int(prompt.max()) + 1 if len(prompt) else 0
    zeros = torch.zeros(groups, dtype=rewards.dtype, device=rewards.device)
    counts = is_counted.to(rewards.dtype)
    size = zeros.index_add(0, prompt, counts)
    is_single = zeros.index_add(0, prompt, torch.ones_like(counts)) == 1
    # Taken from the group's lowest reward, the differences of equal rewards are 0, and so is their mean, unrounded.
    lowest = zeros.scatter_reduce(0, prompt[is_counted], rewards[is_counted], "amin", include_self=False)
    above = (rewards - lowest[prompt]) * counts
    mean = zeros.index_add(0, prompt, above) / size.clamp(min=1)
    centred = (above - mean[prompt]).masked_fill(~is_counted, 0.0)
    centred = torch.where(is_single[prompt], rewards, centred)
    if not divides_by_std:
        return centred
    variance = zeros.index_add(0, prompt, centred**2) / (size - 1).clamp(min=1)
    divisor = torch.where(is_single, torch.ones_like(mean), variance.sqrt())[prompt] + epsilon
    return torch.where(divisor > 0, centred / divisor, torch.zeros_like(centred))
