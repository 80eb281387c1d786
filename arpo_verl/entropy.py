"""The entropy of a step and its change, computed from log-probabilities (arXiv 2507.19849, equations 3 and 4).

Three sources, all in nats:

- `topk`: from the K most likely tokens, the rest of the probability accounted for;
- `surprisal`: -log p of the sampled token, an unbiased one-sample estimate at temperature 1 and top-p 1, which needs
  nothing but what any server returns, and is noisy;
- the released code's entropy: the sum over the ten most likely tokens alone.

None of them sees the whole vocabulary, as the paper's equation 3 does.
"""

import itertools
import math
from collections.abc import Iterable, Sequence


def surprisals(logprobs: Sequence[float]) -> list[float]:
    """Return -log p of each sampled token, in nats: one-sample estimates of the entropies."""
    return [-logprob for logprob in logprobs]


def truncated_entropy(logprobs: Sequence[float]) -> float:
    """Return -Σ p log p over the given tokens alone, in nats; what they leave of the probability counts nothing.

    The released code's entropy of one position (`vllm_rollout_with_tools.py`), a lower bound of the true one.
    """
    return -sum(math.exp(logprob) * logprob for logprob in logprobs if logprob > -math.inf)


def topk_entropy(logprobs: Sequence[float]) -> float:
    """Return the entropy of one position from its K most likely tokens, in nats.

    The rest, of probability r, is taken to consist of tokens as likely as the K-th, or of one token where r is less
    than that: it adds -r log min(p_K, r). No token of the rest is likelier, so that is the least it can add; it lies
    between the rest as one token, -r log r, and the rest spread evenly over the V - K other tokens,
    -r log(r / (V - K)). Exact where r is 0, as under top-k or top-p sampling that keeps at most K tokens.

    Args:
        logprobs: log-probabilities of the K most likely tokens, in any order; at least one. Where sampling has
            excluded a token its log-probability is -inf.
    """
    rest = max(0.0, 1.0 - sum(math.exp(logprob) for logprob in logprobs))
    least_likely = math.exp(min(logprobs))
    unit = min(least_likely, rest)
    return truncated_entropy(logprobs) - (rest * math.log(unit) if unit > 0 else 0.0)


def position_entropies(
    positions: Iterable[Sequence[float]], tokens: int, top_k: int, is_truncated: bool
) -> list[float]:
    """Return the entropies of the first `tokens` positions, in nats.

    Args:
        positions: log-probabilities of each position: the top K and, where it is none of them, the sampled token's.
        tokens: how many positions.
        top_k: K.
        is_truncated: the released code's sum over all that is given, instead of `topk_entropy`.
    """
    watched = itertools.islice(positions, tokens)
    if is_truncated:
        return [truncated_entropy(logprobs) for logprobs in watched]
    return [topk_entropy(sorted(logprobs, reverse=True)[:top_k]) for logprobs in watched]


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


def reference_entropy_change(step: Sequence[float], initial: Sequence[float], vocabulary_size: int) -> float:
    """Return the released code's ΔH: the difference of the two sums, over log V, however many positions each has.

    Args:
        step: `truncated_entropy` of the first tokens of the step that ended in the call, in nats.
        initial: the same of the trajectory's first step.
        vocabulary_size: V, at least 2.
    """
    return (sum(step) - sum(initial)) / math.log(vocabulary_size)


def branch_score(change: float, base_probability: float, entropy_weight: float) -> float:
    """Return P_t = α + β ΔH, not clipped (arXiv 2507.19849, section 3.1)."""
    return base_probability + entropy_weight * change
