"""From log-probabilities to the entropy of a step and its change (arXiv 2507.19849, equations 3 and 4).

Only the surprisal source is here: -log p of the sampled token is an unbiased one-sample estimate of the entropy at
temperature 1 and top-p 1, it needs nothing but what any server returns, and it is noisy.
"""

import math
from collections.abc import Sequence


def surprisals(logprobs: Sequence[float]) -> list[float]:
    """Return -log p of each sampled token, in nats: one-sample estimates of the entropies."""
    return [-logprob for logprob in logprobs]


def entropy_change(after_tool: Sequence[float], initial: Sequence[float], vocabulary_size: int) -> float:
    """Return ΔH, the summed change of entropy against the trajectory's beginning, over log V.

    Args:
        after_tool: entropies of the first tokens after the tool result, in nats.
        initial: entropies of the first tokens of the trajectory's root, in nats.
        vocabulary_size: V.

    Returns:
        The sum over the positions that both have, divided by log V. 0.0 if there are none. The paper divides by V,
        with which its own β has no measurable effect; the released code divides by log V, and so do we.

    Raises:
        ValueError: `vocabulary_size` is below 2.
    """
    if vocabulary_size < 2:
        raise ValueError(f"vocabulary_size={vocabulary_size}; expected at least 2")
    pairs = zip(after_tool, initial, strict=False)  # the shorter of the two decides
    return sum(after - before for after, before in pairs) / math.log(vocabulary_size)
