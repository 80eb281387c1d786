"""The metrics `tree/...` of a step; docs/diagnostics.md says how to read each one."""

import math

import torch

from arpo_verl.advantages.tree.intraclass import intraclass_correlation
from arpo_verl.diagnostics.fork_points import ForkPoints
from arpo_verl.diagnostics.grown_trees import GrownTrees

QUARTILES = (0.25, 0.5, 0.75)


def branching_metrics(trees: GrownTrees, points: ForkPoints) -> dict[str, float]:
    """Return the metrics of a step's trees; what can't be told of them is absent.

    Args:
        trees: a step's.
        points: theirs.
    """
    metrics = _sharing(trees)
    correlation = intraclass_correlation(trees.nodes, trees.rewards)
    if correlation is not None:
        metrics["tree/intraclass_correlation"] = correlation
    metrics |= _variances(points)
    found = {"tree/lift": lift_of_forks(points), "tree/lift/coverage": lift_coverage(points)}
    metrics |= {name: value for name, value in found.items() if value is not None}
    costs = {
        "tokens": (points.tokens_before, points.tokens_after),
        "calls": (points.calls_before, points.calls_after),
    }
    for unit, (before, after) in costs.items():
        below = float(after[points.has_forked].sum())
        if below > 0:
            metrics[f"tree/cost_ratio/{unit}"] = float(before[points.has_forked].sum()) / below
    if correlation is not None and "tree/cost_ratio/tokens" in metrics:
        leaves = trees.nodes.leaves[trees.nodes.turns :]
        most = float(leaves[leaves > 0].mean())
        metrics["tree/optimal_forks"] = optimal_forks(correlation, metrics["tree/cost_ratio/tokens"], most)
    return metrics


def _sharing(trees: GrownTrees) -> dict[str, float]:
    """Return what of the sampled tokens is shared; a token that leaves share is one token."""
    nodes, tokens = trees.nodes, trees.turn_tokens
    total = float(tokens.sum())
    if total == 0:
        return {}
    is_silent = nodes.children[nodes.parent] == 1
    of_prompt = nodes.leaves[nodes.prompt].clamp(min=1)
    return {
        "tree/silent_fraction": float((tokens * is_silent).sum()) / total,
        "tree/mean_multiplicity": float((tokens * nodes.leaves).sum()) / total,
        "tree/attenuation": float((tokens * (1 - nodes.leaves / of_prompt)).sum()) / total,
    }


def _variances(points: ForkPoints) -> dict[str, float]:
    """Return the mean variance at forks, and that of each quarter of them by the entropy that was measured there."""
    forks = points.has_forked.nonzero().flatten().tolist()
    variance = points.variance[forks]
    if not forks:
        return {}
    metrics = {"tree/subtree_variance": float(variance.mean())}
    decisions = [points.decisions[fork] for fork in forks]
    given = [torch.nan if one is None or one.entropy is None else one.entropy for one in decisions]
    entropy = torch.tensor(given, dtype=torch.float64)
    is_known = entropy.isfinite()
    if bool(is_known.any()):
        entropy, variance = entropy[is_known], variance[is_known]
        bounds = entropy.quantile(torch.tensor(QUARTILES, dtype=torch.float64))
        quarter = torch.bucketize(entropy, bounds)  # a bound belongs to the quarter below it
        for number in range(len(QUARTILES) + 1):
            is_here = quarter == number
            if bool(is_here.any()):
                metrics[f"tree/subtree_variance/q{number + 1}"] = float(variance[is_here].mean())
    return metrics


def lift_of_forks(points: ForkPoints) -> float | None:
    """Return the mean variance where leaves fork over that of all fork points; None where it can't be estimated.

    The second mean is over the forks as well, each weighted by one over the probability that it had, so that the points
    which the coin has left out are represented by those like them. Points that could not fork are not: of how many that
    is so, `lift_coverage` says.

    Args:
        points: a step's; those without a probability are left out.
    """
    probability = _fork_probabilities(points)
    is_used = points.has_forked & (probability > 0)
    if not bool(is_used.any()):
        return None
    variance, weight = points.variance[is_used], 1 / probability[is_used]
    everywhere = float((variance * weight).sum() / weight.sum())
    return float(variance.mean()) / everywhere if everywhere > 0 else None


def lift_coverage(points: ForkPoints) -> float | None:
    """Return the share of fork points that could fork, of those of which it is known; None of none."""
    probability = _fork_probabilities(points)
    known = probability[probability.isfinite()]
    return float((known > 0).double().mean()) if len(known) else None


def _fork_probabilities(points: ForkPoints) -> torch.Tensor:
    """Return the probability of a fork at each point; NaN where it is not known."""
    given = [None if one is None else one.fork_probability for one in points.decisions]
    return torch.tensor([torch.nan if one is None else one for one in given], dtype=torch.float64)


def optimal_forks(correlation: float, cost_ratio: float, most: float) -> float:
    """Return K*, how many leaves a root should have for the least variance at a cost: √((1 - ρ) / ρ · t1 / t2).

    In terms of rewards, which stand for the gradients here. At most `most`, also where leaves of different roots differ
    no more than leaves of one.

    Args:
        correlation: ρ, not clipped.
        cost_ratio: t1 / t2, the cost before forks over that of one leaf after them.
        most: a prompt's leaves.
    """
    if correlation <= 0:
        return most
    return min(most, math.sqrt(max(0.0, 1 - correlation) / correlation * cost_ratio))
