"""What is logged about the trees of a step. A `LeafRecord` travels with its leaf from the worker to the trainer."""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from arpo_verl.config.arpo_config import Fault
from arpo_verl.rollout.tree import Leaf, StopReason, is_infrastructure


@dataclass(frozen=True)
class LeafRecord:
    """The history of one leaf in plain values, so that it survives every transport."""

    leaves: int
    """Size of the tree that was asked for."""
    number: int
    parent: int | None
    path: str
    fork_token: int | None
    is_top_up: bool
    stop_reason: str
    is_result_cut: bool
    is_excluded: bool
    """Left out of the loss and of its group's statistics (`arpo.exclude`)."""
    segments: list[tuple[int, int, bool]]
    """(segment id, tokens, whether they were sampled) of each segment."""
    calls: list[tuple[int, str, str, float, int]]
    """(segment id, tool, status, latency in seconds, retries) of each call, those of the prefix included."""
    entropy_initial: float | None
    """Mean of H_initial in nats; None where it was not measured."""
    decisions: list[tuple[float, float, float, int]]
    """(mean entropy, ΔH, P_t, forks) at each of this leaf's own fork points."""
    weight_versions: tuple[int, int] | None
    """First and last version of the weights that sampled the leaf."""
    requested_tokens: int
    cached_tokens: int

    @classmethod
    def of(cls, leaf: Leaf, leaves: int, exclude: Collection[Fault] = ()) -> "LeafRecord":
        """Return the record of a finished leaf of a tree of `leaves`."""
        assert leaf.stop_reason is not None, f"leaf {leaf.path} is still alive"
        return cls(
            leaves=leaves,
            number=leaf.number,
            parent=leaf.parent,
            path=leaf.path,
            fork_token=leaf.fork_token,
            is_top_up=leaf.is_top_up,
            stop_reason=leaf.stop_reason.value,
            is_result_cut=leaf.is_result_cut,
            is_excluded=bool(leaf.faults & set(exclude)),
            segments=[(segment.id, len(segment.token_ids), segment.is_sampled) for segment in leaf.segments],
            calls=[
                (segment.id, call.name, call.status, call.latency_seconds, call.retries)
                for segment in leaf.segments
                for call in segment.calls
            ],
            entropy_initial=statistics.fmean(leaf.initial_entropies) if leaf.initial_entropies else None,
            decisions=[
                (decision.entropy, decision.entropy_change, decision.branch_score, decision.forks)
                for decision in leaf.decisions
            ],
            weight_versions=leaf.weight_versions,
            requested_tokens=leaf.requested_tokens,
            cached_tokens=leaf.cached_tokens,
        )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def statuses(self) -> set[str]:
        """How the calls ended, those of the prefix included."""
        return {status for _, _, status, _, _ in self.calls}


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
    return metrics | _token_metrics(trees) | _entropy_metrics(leaves) | tool_metrics(trees)


def _fraction(truths: Iterable[bool]) -> float:
    return statistics.fmean(map(float, truths))


def _token_metrics(trees: Trees) -> dict[str, float]:
    total = sum(tokens for tree in trees.values() for leaf in tree for _, tokens, _ in leaf.segments)
    by_id = [{own[0]: own for leaf in tree for own in leaf.segments} for tree in trees.values()]
    distinct = [segment for tree in by_id for segment in tree.values()]
    requested = sum(leaf.requested_tokens for tree in trees.values() for leaf in tree)
    cached = sum(leaf.cached_tokens for tree in trees.values() for leaf in tree)
    return {
        "arpo/generated_tokens": sum(tokens for _, tokens, is_sampled in distinct if is_sampled),
        "arpo/shared_token_fraction": 1 - sum(tokens for _, tokens, _ in distinct) / total if total else 0.0,
        "arpo/prefix_cache_hit_fraction": cached / requested if requested else 0.0,
    }


def _entropy_metrics(leaves: Sequence[LeafRecord]) -> dict[str, float]:
    roots = [leaf.entropy_initial for leaf in leaves if leaf.parent is None and leaf.entropy_initial is not None]
    decisions = [decision for leaf in leaves for decision in leaf.decisions]
    metrics = {"arpo/entropy/initial": statistics.fmean(roots)} if roots else {}
    if decisions:
        metrics["arpo/entropy/after_tool"] = statistics.fmean(entropy for entropy, _, _, _ in decisions)
        metrics["arpo/entropy/change"] = statistics.fmean(change for _, change, _, _ in decisions)
        metrics["arpo/branch_probability"] = statistics.fmean(min(max(p, 0.0), 1.0) for _, _, p, _ in decisions)
    return metrics


def reward_metrics(parts: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean of each part of the rewards that is a finite number; truths count as 0 and 1."""
    values: dict[str, list[float]] = defaultdict(list)
    for of_leaf in parts:
        for name, value in of_leaf.items():
            if isinstance(value, (int, float)) and math.isfinite(value):
                values[name].append(float(value))
    return {f"reward/{name}": statistics.fmean(numbers) for name, numbers in values.items()}


def leaf_columns(extra_fields: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return what the rollout's JSONL says about each leaf, a list a column.

    Args:
        extra_fields: of each row: `arpo`, a `LeafRecord` as a dictionary, and verl's `reward_extra_info`.
    """
    records = [fields["arpo"] for fields in extra_fields]
    columns = {f"arpo_{name}": [record[name] for record in records] for name in records[0]} if records else {}
    return columns | {"reward_parts": [fields.get("reward_extra_info", {}) for fields in extra_fields]}


def infrastructure_fraction(leaves: Sequence[LeafRecord]) -> float:
    """Return the share of leaves in which a tool failed by no fault of the model."""
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
    for name in sorted({name for name, _, _, _ in calls}):
        latencies = sorted(latency for tool, _, latency, _ in calls if tool == name)
        metrics[f"tools/{name}/calls"] = len(latencies)
        metrics[f"tools/{name}/latency_s/p50"] = nearest_rank(latencies, 50)
        metrics[f"tools/{name}/latency_s/p95"] = nearest_rank(latencies, 95)
        metrics[f"tools/{name}/retries"] = sum(retries for tool, _, _, retries in calls if tool == name)
        for status, count in Counter(status for tool, status, _, _ in calls if tool == name).items():
            metrics[f"tools/{name}/status/{status}"] = count
    return metrics


def nearest_rank(ascending: Sequence[float], percent: int) -> float:
    """Return the smallest value that at least `percent` (1 to 100) percent of the values do not exceed."""
    return ascending[math.ceil(len(ascending) * percent / 100) - 1]


def _distinct_calls(tree: Sequence[LeafRecord]) -> list[tuple[str, str, float, int]]:
    """Return (tool, status, latency, retries) of each executed call; a shared prefix's are in several leaves."""
    by_segment: dict[int, list[tuple[str, str, float, int]]] = {}
    for leaf in tree:
        of_leaf: dict[int, list[tuple[str, str, float, int]]] = {}
        for segment, tool, status, latency, retries in leaf.calls:
            of_leaf.setdefault(segment, []).append((tool, status, latency, retries))
        by_segment |= of_leaf
    return [call for calls in by_segment.values() for call in calls]
