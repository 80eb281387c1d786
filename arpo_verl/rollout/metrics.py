"""What is logged about the trees of a step. A `LeafRecord` travels with its leaf from the worker to the trainer."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from arpo_verl.rollout.tree import Leaf, StopReason


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
    segments: list[tuple[int, int]]
    """(segment id, tokens) of each segment."""
    calls: list[tuple[int, str, str, float]]
    """(segment id, tool, status, latency in seconds) of each call, those of the prefix included."""
    entropy_initial: float | None
    """Mean of H_initial in nats; None where the engine gave no log-probabilities."""
    decisions: list[tuple[float, float, float, int]]
    """(mean entropy, ΔH, P_t, forks) at each of this leaf's own fork points."""

    @classmethod
    def of(cls, leaf: Leaf, leaves: int) -> "LeafRecord":
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
            segments=[(segment.id, len(segment.token_ids)) for segment in leaf.segments],
            calls=[
                (segment.id, segment.tool.name, segment.tool.status, segment.tool.latency_seconds)
                for segment in leaf.segments
                if segment.tool is not None
            ],
            entropy_initial=statistics.fmean(leaf.initial_entropies) if leaf.initial_entropies else None,
            decisions=[
                (decision.entropy, decision.entropy_change, decision.branch_score, decision.forks)
                for decision in leaf.decisions
            ],
        )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def tree_metrics(trees: Mapping[str, Sequence[LeafRecord]]) -> dict[str, float]:
    """Return the metrics of a step's trees, one list of leaves a prompt. A call of a shared prefix counts once."""
    leaves = [leaf for tree in trees.values() for leaf in tree]
    sizes = [len(tree) for tree in trees.values()]
    metrics = {
        "arpo/leaves": statistics.fmean(sizes),
        "arpo/leaves/min": min(sizes),
        "arpo/leaves/max": max(sizes),
        "arpo/branches_per_prompt": sum(leaf.parent is not None for leaf in leaves) / len(trees),
        "arpo/top_ups_per_prompt": sum(leaf.is_top_up for leaf in leaves) / len(trees),
        "arpo/shared_token_fraction": _shared_token_fraction(trees),
        "arpo/result_cut_fraction": sum(leaf.is_result_cut for leaf in leaves) / len(leaves),
    }
    for reason in StopReason:
        metrics[f"stop/{reason.value}"] = sum(leaf.stop_reason == reason.value for leaf in leaves) / len(leaves)
    return metrics | _entropy_metrics(leaves) | _tool_metrics(trees)


def _shared_token_fraction(trees: Mapping[str, Sequence[LeafRecord]]) -> float:
    """Return the share of the leaves' tokens that was generated for another leaf already."""
    total = sum(tokens for tree in trees.values() for leaf in tree for _, tokens in leaf.segments)
    distinct = sum(
        sum({segment: tokens for leaf in tree for segment, tokens in leaf.segments}.values()) for tree in trees.values()
    )
    return 1 - distinct / total if total else 0.0


def _entropy_metrics(leaves: Sequence[LeafRecord]) -> dict[str, float]:
    roots = [leaf.entropy_initial for leaf in leaves if leaf.parent is None and leaf.entropy_initial is not None]
    decisions = [decision for leaf in leaves for decision in leaf.decisions]
    metrics = {"arpo/entropy/initial": statistics.fmean(roots)} if roots else {}
    if decisions:
        metrics["arpo/entropy/after_tool"] = statistics.fmean(entropy for entropy, _, _, _ in decisions)
        metrics["arpo/entropy/change"] = statistics.fmean(change for _, change, _, _ in decisions)
        metrics["arpo/branch_probability"] = statistics.fmean(min(max(p, 0.0), 1.0) for _, _, p, _ in decisions)
    return metrics


def _tool_metrics(trees: Mapping[str, Sequence[LeafRecord]]) -> dict[str, float]:
    calls = [
        call for tree in trees.values() for call in {call[0]: call for leaf in tree for call in leaf.calls}.values()
    ]
    metrics: dict[str, float] = {"tools/calls": len(calls)}
    for name in sorted({name for _, name, _, _ in calls}):
        latencies = sorted(latency for _, tool, _, latency in calls if tool == name)
        metrics[f"tools/{name}/calls"] = len(latencies)
        metrics[f"tools/{name}/latency_s/p50"] = latencies[len(latencies) // 2]
        metrics[f"tools/{name}/latency_s/p95"] = latencies[len(latencies) * 95 // 100]
        for status, count in Counter(status for _, tool, status, _ in calls if tool == name).items():
            metrics[f"tools/{name}/status/{status}"] = count
    return metrics
