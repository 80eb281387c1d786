"""Where and how often to branch (arXiv 2507.19849, equation 5 and algorithm 1). The random generator is passed in."""

import random
from collections.abc import Iterable
from typing import Literal

Rule = Literal["bernoulli", "threshold", "reference"]
RULES: tuple[Rule, ...] = ("bernoulli", "threshold", "reference")


def branch_score(change: float, base_probability: float, entropy_weight: float) -> float:
    """Return P_t = α + β ΔH, not clipped."""
    return base_probability + entropy_weight * change


def draw_forks(score: float, rule: Rule, threshold: float, candidates: int, generator: random.Random) -> int:
    """Return how many of the `candidates` forks (Z - 1 of them) to create.

    Args:
        score: P_t.
        rule: `bernoulli`, each candidate on its own with probability clip(P_t, 0, 1); `threshold`, all of them if
            P_t > τ and else none, as the paper says. For `reference` see `draw_reference_forks`.
        threshold: τ, used by `threshold` alone.
        candidates: the most that may be created, at least 0.
        generator: source of the draws.
    """
    if rule == "threshold":
        return candidates if score > threshold else 0
    return sum(generator.random() < score for _ in range(candidates))


def draw_reference_forks(
    change: float, base_probability: float, entropy_weight: float, candidates: int, generator: random.Random
) -> int:
    """Return how many forks the released code creates (`vllm_rollout_with_tools.py`).

    Each candidate draws u of its own and is skipped if clip(u - β ΔH, 0, 1) > α. That is a coin with probability
    clip(α + β ΔH, 0, 1), but where α is 1: then nothing exceeds it, and each candidate forks whatever the change.

    Args:
        change: ΔH.
        base_probability: α.
        entropy_weight: β.
        candidates: Z - 1, or the leaves that are still missing if those are fewer: the released code tosses no coin for
            a fork that has no place.
        generator: source of the draws.
    """
    draws = (generator.random() - entropy_weight * change for _ in range(candidates))
    return sum(min(max(draw, 0.0), 1.0) <= base_probability for draw in draws)


def possible_forks(decisions_left: int, branch_factor: int, at_most: int) -> int:
    """Return how many leaves one living leaf could still add, its descendants' forks included: Z**decisions - 1.

    Args:
        decisions_left: tool results that the leaf can still receive, the one it has not decided about included.
        branch_factor: Z.
        at_most: cap, because the power grows fast.
    """
    forks = 0
    for _ in range(decisions_left):
        forks = forks * branch_factor + branch_factor - 1
        if forks >= at_most or branch_factor == 1:
            break
    return min(forks, at_most)


def certain_top_ups(missing: int, possible: Iterable[int]) -> int:
    """Return how many of the missing leaves no living leaf can become any more: these start from the prompt at once."""
    return max(0, missing - sum(possible))
