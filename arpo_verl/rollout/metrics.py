"""The metrics of the trees of a step."""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from arpo_verl.rollout.leaf_record import LeafRecord, ToolCallRecord
from arpo_verl.rollout.tree import StopReason, is_infrastructure

Trees = Mapping[str, Sequence[LeafRecord]]
"""The leaves of each prompt."""


def tree_metrics(trees: Trees) -> dict[str, float]:
    """Return the metrics of a step's trees, one list of leaves a prompt. What leaves share counts once."""
    leaves = [leaf for tree in trees.values() for leaf in tree]
    sizes = [len(tree) for tree in trees.values()]
    metrics = {
        "arpo/leaves": statistics.fmean(sizes),
        "arpo/leaves/min": min(sizes),
        "arpo/leaves/max": max(sizes),
        "arpo/branches_per_prompt": sum(leaf.parent is not None for leaf in leaves) / len(trees),
        "arpo/top_ups_per_prompt": sum(leaf.is_top_up for leaf in leaves) / len(trees),
        "arpo/result_cut_fraction": _fraction(leaf.is_result_cut for leaf in leaves),
        "arpo/excluded_fraction": _fraction(leaf.is_excluded for leaf in leaves),
        "arpo/mixed_weights_fraction": _fraction(
            leaf.weight_versions is not None and leaf.weight_versions[0] != leaf.weight_versions[1] for leaf in leaves
        ),
    }
    for reason in StopReason:
        metrics[f"stop/{reason.value}"] = _fraction(leaf.stop_reason == reason.value for leaf in leaves)
    if in_rounds := [one for leaf in leaves for one in leaf.decisions if one.round is not None]:
        metrics["arpo/forks_in_rounds_per_prompt"] = sum(decision.forks for decision in in_rounds) / len(trees)
    return metrics | _token_metrics(trees) | _entropy_metrics(leaves) | tool_metrics(trees)


def _fraction(truths: Iterable[bool]) -> float:
    return statistics.fmean(map(float, truths))


def _token_metrics(trees: Trees) -> dict[str, float]:
    total = sum(segment.tokens for tree in trees.values() for leaf in tree for segment in leaf.segments)
    by_id = [{segment.id: segment for leaf in tree for segment in leaf.segments} for tree in trees.values()]
    distinct = [segment for tree in by_id for segment in tree.values()]
    requested = sum(leaf.requested_tokens for tree in trees.values() for leaf in tree)
    cached = sum(leaf.cached_tokens for tree in trees.values() for leaf in tree)
    return {
        "arpo/generated_tokens": sum(segment.tokens for segment in distinct if segment.is_sampled),
        "arpo/shared_token_fraction": 1 - sum(segment.tokens for segment in distinct) / total if total else 0.0,
        "arpo/prefix_cache_hit_fraction": cached / requested if requested else 0.0,
    }


def _entropy_metrics(leaves: Sequence[LeafRecord]) -> dict[str, float]:
    roots = [leaf.entropy_initial for leaf in leaves if leaf.parent is None and leaf.entropy_initial is not None]
    decisions = [decision for leaf in leaves for decision in leaf.decisions]
    metrics = {"arpo/entropy/initial": statistics.fmean(roots)} if roots else {}
    seen = {
        "arpo/entropy/after_tool": [one.entropy for one in decisions if one.entropy is not None],
        "arpo/entropy/change": [one.entropy_change for one in decisions if one.entropy_change is not None],
        "arpo/branch_probability": [
            min(max(one.branch_score, 0.0), 1.0) for one in decisions if one.branch_score is not None
        ],
        "arpo/fork_score": [one.score for one in decisions if one.score is not None],
    }
    metrics |= {name: statistics.fmean(values) for name, values in seen.items() if values}
    for limit, count in Counter(decision.limit for decision in decisions).items():
        metrics[f"arpo/fork_limit/{limit}"] = count / len(decisions)
    refused = Counter(refusal.reason for leaf in leaves for refusal in leaf.refusals)
    points = refused.total() + sum(decision.round is None for decision in decisions)
    for reason, count in refused.items():
        metrics[f"arpo/fork_refused/{reason}"] = count / points
    return metrics


def reward_metrics(parts: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean of each part of the rewards that is a finite number; truths count as 0 and 1."""
    values: dict[str, list[float]] = defaultdict(list)
    for leaf_parts in parts:
        for name, value in leaf_parts.items():
            if isinstance(value, (int, float)) and math.isfinite(value):
                values[name].append(float(value))
    return {f"reward/{name}": statistics.fmean(numbers) for name, numbers in values.items()}


def infrastructure_fraction(leaves: Sequence[LeafRecord]) -> float:
    """Return the share of leaves with an infrastructure failure."""
    return _fraction(any(map(is_infrastructure, leaf.statuses)) for leaf in leaves)


def tool_metrics(trees: Trees) -> dict[str, float]:
    """Return the metrics of a step's tool calls; a call of a shared prefix counts once, but for each of its leaves."""
    leaves = [leaf for tree in trees.values() for leaf in tree]
    calls = [call for tree in trees.values() for call in _distinct_calls(tree)]
    metrics: dict[str, float] = {
        "tools/calls": len(calls),
        "tools/calls_per_leaf": statistics.fmean(len(leaf.calls) for leaf in leaves),
        "tools/infrastructure_fraction": infrastructure_fraction(leaves),
    }
    for name in sorted({call.tool for call in calls}):
        tool_calls = [call for call in calls if call.tool == name]
        latencies = sorted(call.latency_seconds for call in tool_calls)
        metrics[f"tools/{name}/calls"] = len(latencies)
        metrics[f"tools/{name}/latency_s/p50"] = nearest_rank(latencies, 50)
        metrics[f"tools/{name}/latency_s/p95"] = nearest_rank(latencies, 95)
        metrics[f"tools/{name}/retries"] = sum(call.retries for call in tool_calls)
        for status, count in Counter(call.status for call in tool_calls).items():
            metrics[f"tools/{name}/status/{status}"] = count
    return metrics


def nearest_rank(ascending: Sequence[float], percent: int) -> float:
    """Return the smallest value that at least `percent` (1 to 100) percent of the values do not exceed."""
    return ascending[math.ceil(len(ascending) * percent / 100) - 1]


def _distinct_calls(tree: Sequence[LeafRecord]) -> list[ToolCallRecord]:
    """Return each executed call once; those of a shared prefix are in the records of several leaves."""
    by_segment: dict[int, list[ToolCallRecord]] = {}
    for leaf in tree:
        leaf_calls: dict[int, list[ToolCallRecord]] = {}
        for call in leaf.calls:
            leaf_calls.setdefault(call.segment, []).append(call)
        by_segment |= leaf_calls
    return [call for calls in by_segment.values() for call in calls]
