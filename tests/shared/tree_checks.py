"""What holds for every grown tree, whatever its rule, its world and the order of events."""

import pytest
from fakes import ScriptedTools

from arpo_verl.config import ArpoConfig
from arpo_verl.rollout.leaf_record import LeafRecord
from arpo_verl.rollout.metrics import tree_metrics
from arpo_verl.rollout.tree import Leaf


def check_tree(grown: list[Leaf], leaves: int, budget: int, config: ArpoConfig, tools: ScriptedTools) -> None:
    """Exactly n leaves, none twice, each within its limits, with equal segment ids exactly where tokens are shared."""
    assert len(grown) == leaves
    assert sorted(leaf.number for leaf in grown) == list(range(leaves))
    assert len({leaf.path for leaf in grown}) == leaves
    for leaf in grown:
        check_leaf(leaf, budget, config)
    for one in grown:
        for other in grown:
            check_pair(one, other)
    check_decisions(grown)
    check_metrics(grown, tools)


def check_leaf(leaf: Leaf, budget: int, config: ArpoConfig) -> None:
    assert leaf.length == len(leaf.token_ids) <= budget
    assert len(leaf.token_ids) == len(leaf.response_mask) == len(leaf.logprobs) == len(leaf.segment_ids)
    assert all(logprob == 0 for logprob, mask in zip(leaf.logprobs, leaf.response_mask, strict=True) if not mask)
    assert leaf.tool_calls <= config.max_tool_calls
    assert leaf.stop_reason is not None


def check_pair(one: Leaf, other: Leaf) -> None:
    """Equal segment ids are equal tokens, and they are a prefix: after the first difference nothing is shared."""
    same = [a == b for a, b in zip(one.segment_ids, other.segment_ids, strict=False)]
    assert same == sorted(same, reverse=True)
    shared = sum(same)
    assert one.token_ids[:shared] == other.token_ids[:shared]
    if one.parent == other.number:
        assert shared == one.fork_token
    if one.number != other.number and one.parent is None and other.parent is None:
        assert shared == 0


def check_decisions(leaves: list[Leaf]) -> None:
    """Every fork is in a decision of its parent, at its place; a root that was sampled again in one at the prompt."""
    decided = sum(decision.forks for leaf in leaves for decision in leaf.decisions if decision.fork_token)
    assert decided == sum(leaf.parent is not None for leaf in leaves)
    for leaf in leaves:
        forked = [one.fork_token for one in leaf.decisions for _ in range(one.forks) if one.fork_token]
        assert sorted(forked) == sorted(one.fork_token for one in leaves if one.parent == leaf.number)


def check_metrics(leaves: list[Leaf], tools: ScriptedTools) -> None:
    metrics = tree_metrics({"prompt": [LeafRecord.from_leaf(leaf, len(leaves)) for leaf in leaves]})
    assert metrics["arpo/leaves"] == len(leaves)
    malformed = metrics.get("tools/python/status/model_error", 0)
    assert metrics["tools/calls"] == len(tools.calls) + malformed
    assert sum(value for key, value in metrics.items() if key.startswith("stop/")) == pytest.approx(1)
