"""The rewards that the tools themselves give to their calls."""

from arpo_verl.turn_rewards import LeafTurns


def tools(leaf: LeafTurns) -> list[float | None]:
    """Return, for each turn, the sum of the step rewards of its calls; None where no call has one.

    A step reward is the second value that verl's `BaseTool.execute` returns. The tools that come with this package, and
    functions that return a text alone, give 0 to every call.
    """
    return [_sum([call.reward for call in turn.calls if call.reward is not None]) for turn in leaf.turns]


def _sum(rewards: list[float]) -> float | None:
    return sum(rewards) if rewards else None
