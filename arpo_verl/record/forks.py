"""What is said of the forks of recorded trees: which trees say most, and what a fork was decided by."""

import math
import statistics
from collections.abc import Iterable, Sequence

from arpo_verl.record.building import Row
from arpo_verl.record.content import RecordedLeaf, RecordedPrompt
from arpo_verl.rollout.tree import Decision


def interest(rewards: Iterable[float | None], forks: int) -> tuple[float, int]:
    """Return how much a tree has to say, to be compared: the spread of its rewards, then the number of its forks.

    Args:
        rewards: of its leaves that are not excluded; those that are unknown or not finite do not count.
        forks: how many of its leaves have forked from another one.
    """
    known = [reward for reward in rewards if reward is not None and math.isfinite(reward)]
    return (statistics.pstdev(known) if known else -1.0), forks


def interest_of(prompt: RecordedPrompt) -> tuple[float, int]:
    """Return the `interest` of a recorded prompt."""
    rewards = (leaf.reward for leaf in prompt.leaves if not leaf.is_excluded)
    return interest(rewards, sum(leaf.parent is not None for leaf in prompt.leaves))


def most_telling(prompts: Iterable[RecordedPrompt], count: int) -> list[RecordedPrompt]:
    """Return the prompts with the most `interest`, the first one first; of those that are equal, those that came first.

    Args:
        prompts: of a step.
        count: how many at most.
    """
    return sorted(prompts, key=interest_of, reverse=True)[:count]


def most_telling_rows(rows: Sequence[Row], count: int) -> list[Row]:
    """Return the rows of the prompts that `most_telling` chooses, in its order, before they are recorded."""
    by_prompt: dict[str, list[Row]] = {}
    for row in rows:
        by_prompt.setdefault(row.prompt, []).append(row)
    chosen = sorted(by_prompt.values(), key=_interest_of_rows, reverse=True)[:count]
    return [row for of_prompt in chosen for row in of_prompt]


def _interest_of_rows(rows: Iterable[Row]) -> tuple[float, int]:
    pairs = [(row, row.history) for row in rows]
    rewards = (row.reward for row, history in pairs if history is None or not history.is_excluded)
    return interest(rewards, sum(history is not None and history.parent is not None for _, history in pairs))


def decision_of(prompt: RecordedPrompt, leaf: RecordedLeaf) -> Decision | None:
    """Return the decision by which a leaf has forked; None of one that has not, or whose parent is not there."""
    parents = (one for one in prompt.leaves if leaf.parent is not None and one.number == leaf.parent)
    decisions = (seen for parent in parents for seen in parent.decisions)
    return next((seen for seen in decisions if seen.forks and seen.fork_token == leaf.fork_token), None)


def mean_advantage(prompt: RecordedPrompt, leaf: RecordedLeaf) -> float | None:
    """Return the mean of a leaf's advantages over the tokens of its segments that have one; None where none has."""
    # The record of a run that was cut short has no advantages, and one list is then shorter than the other.
    pairs = zip(prompt.segments_of(leaf), leaf.advantages, strict=False)
    weighed = [(segment.tokens, advantage) for segment, advantage in pairs if advantage is not None]
    tokens = sum(count for count, _ in weighed)
    return sum(count * advantage for count, advantage in weighed) / tokens if tokens else None
