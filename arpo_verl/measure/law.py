"""What a design of trees costs for the same variance of the gradient as independent leaves. Elementwise.

With V1 the variance of rewards between prefixes, W that within them, T = V1 + W, and K leaves below each of N prefixes,
M = N K, the variances of the gradients of prefix and suffix are

    prefix: c1 (V1 + W / K) / N,        suffix: c2 B(K) / M,

c1 and c2 the expected squares of the scores, which are taken as proportional to the sampled tokens before and after the
fork, and B what is left of a reward's variance by its baseline. This neglects the mean gradient of a suffix, given its
prefix, against its spread; `at_worst` does the contrary. GRPO has K = 1 and B = T. A prompt costs N (t1 + K t2).
"""

from dataclasses import dataclass

import numpy as np

from arpo_verl.measure.bootstrap import Means, Values

GROUP, SIBLINGS, SHRUNK = "group", "siblings", "shrunk"
"""Baselines of a token after the fork: the mean of all other leaves, of the siblings, and the best mix of both."""


@dataclass(frozen=True)
class Split:
    """Where variance and cost arise, before and after a fork. Shape (resamples,) each."""

    between: Values
    """V1, at least 0."""
    within: Values
    """W, at least 0."""
    before: Values
    """t1, of the unit that costs are counted in."""
    after: Values
    """t2."""
    score_before: Values
    """c1 up to a factor: sampled tokens before."""
    score_after: Values

    @property
    def total(self) -> Values:
        return self.between + self.within

    @property
    def correlation(self) -> Values:
        """ρ = V1 / (V1 + W)."""
        return self.between / self.total


def split_at(means: Means, depth: int, unit: str) -> Split:
    """Return the split at the fork points after a number of results.

    Args:
        means: of `arpo_verl.measure.sums.prompt_sums`.
        depth: results before the fork, from 1.
        unit: `tokens`, `calls` or `seconds`.
    """
    total = means["variance"] / means["has_variance"]
    within = means[f"reach/{depth}"] * means[f"forked_variance/{depth}"] / means[f"forked/{depth}"]
    within = np.maximum(within, 0.0)
    after, score_after = means[f"{unit}_after/{depth}"], means[f"tokens_after/{depth}"]
    return Split(
        between=np.maximum(total - within, 0.0),
        within=within,
        before=np.maximum(means[unit] - after, 0.0),
        after=after,
        score_before=np.maximum(means["tokens"] - score_after, 0.0),
        score_after=score_after,
    )


def residual(split: Split, leaves: int, baseline: str) -> Values:
    """Return B(K), the variance of the reward of a leaf less its baseline, the noise of other roots' mean neglected.

    `siblings`: W K / (K - 1). `shrunk`: (1 - w)² V1 + W (1 + w² / (K - 1)), w = (K - 1) ρ / (1 + (K - 2) ρ).

    Args:
        split: at the fork.
        leaves: K.
        baseline: of tokens after it.
    """
    if leaves == 1 or baseline == GROUP:
        return split.total
    if baseline == SIBLINGS:
        return split.within * leaves / (leaves - 1)
    rho = split.correlation
    weight = (leaves - 1) * rho / (1 + (leaves - 2) * rho)
    mixed: Values = (1 - weight) ** 2 * split.between + split.within * (1 + weight**2 / (leaves - 1))
    return mixed


def relative_cost(split: Split, leaves: int, baseline: str) -> Values:
    """Return what a tree costs for the variance that GRPO has, over what GRPO costs: below 1 it saves.

    Args:
        split: at the fork.
        leaves: K.
        baseline: of tokens after it.
    """
    first = split.score_before * (split.between + split.within / leaves)
    second = split.score_after * residual(split, leaves, baseline) / leaves
    return _against_flat(split, leaves, first + second)


def at_worst(split: Split, leaves: int) -> Values:
    """Return the relative cost, by the group's baseline, where suffixes' gradients differ most between prefixes.

    That is where the right decision after the fork depends on the prefix alone: all of c2 W is then variance between
    prefixes, which the square of a covariance can't exceed.

    Args:
        split: at the fork.
        leaves: K.
    """
    between = split.score_before * split.between + split.score_after * split.within
    within = split.score_before * split.within + split.score_after * split.between
    return _against_flat(split, leaves, between + within / leaves)


def _against_flat(split: Split, leaves: int, variance: Values) -> Values:
    flat = (split.score_before + split.score_after) * split.total * (split.before + split.after)
    relative: Values = variance * (split.before + leaves * split.after) / flat
    return relative


def optimal_leaves(split: Split, most: float) -> Values:
    """Return K* = (σ_w / σ_b) √(t1 / t2) of the gradient with the group's baseline, from 1 to a prompt's leaves.

    Args:
        split: at the fork.
        most: M.
    """
    within = split.score_before * split.within + split.score_after * split.total
    best: Values = np.sqrt(within * split.before / (split.score_before * split.between * split.after))
    return best.clip(1.0, most)


def optimal_leaves_of_rewards(split: Split, most: float) -> Values:
    """Return K* with rewards in the place of gradients, as the metric `tree/optimal_forks`, from 1 to M.

    Args:
        split: at the fork.
        most: M.
    """
    best: Values = np.sqrt(split.within / split.between * split.before / split.after)
    return best.clip(1.0, most)
