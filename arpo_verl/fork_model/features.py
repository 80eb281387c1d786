"""What is known at a fork point before it is decided, as numbers by name."""

import math
import statistics
from collections.abc import Sequence

from arpo_verl.rollout.rule import ForkPoint
from arpo_verl.rollout.tree import Leaf

BIAS = "bias"


def features_of(point: ForkPoint) -> dict[str, float]:
    """Return the features of a fork point: place, entropies, the last calls, and the rewards that are known so far.

    What there is not (an entropy, a reward) is 0, and of rewards it is said how many there are. Tools, the statuses of
    their results and the prompt's data source are one feature each, 1 where they are so.
    """
    leaf, total = point.leaf, point.leaf.length + point.tokens_left
    features = {
        BIAS: 1.0,
        "turn": float(leaf.tool_turns),
        "first turn": float(leaf.tool_turns == 1),
        "turns left": float(point.turns_left),
        "share of tokens left": point.tokens_left / total if total else 0.0,
        "entropy": statistics.fmean(point.entropies) if point.entropies else 0.0,
        "entropy change": point.change_since(leaf.turn_entropies[0]) if leaf.turn_entropies else 0.0,
    }
    if point.source:
        features[f"source {point.source}"] = 1.0
    for call in leaf.segments[-1].calls if leaf.segments else ():
        features[f"tool {call.name}"] = features[f"status {call.status}"] = 1.0
    ended = [one for one in point.tree.ended if one.reward is not None and math.isfinite(one.reward)]
    features |= _rewards("prompt", ended)
    features |= _rewards("root", [one for one in ended if _root(one) == _root(leaf)])
    return {name: value if math.isfinite(value) else 0.0 for name, value in features.items()}


def _root(leaf: Leaf) -> str:
    return leaf.path.partition(".")[0]


def _rewards(of: str, leaves: Sequence[Leaf]) -> dict[str, float]:
    """Return mean, variance and presence of the rewards of finished leaves."""
    rewards = [leaf.reward for leaf in leaves if leaf.reward is not None]
    return {
        f"{of} has rewards": float(len(rewards) > 1),
        f"{of} reward": statistics.fmean(rewards) if rewards else 0.0,
        f"{of} reward variance": statistics.variance(rewards) if len(rewards) > 1 else 0.0,
    }
