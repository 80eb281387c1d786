"""The leaves of one prompt as a source of replay sees them: who has failed, and whom a replayed row replaces."""

import hashlib
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class GroupLeaf:
    """One leaf of a prompt."""

    key: str
    """Its row in the queue."""
    number: int
    """Its number among the prompt's leaves."""
    reward: float
    is_counted: bool = True
    """It trains, and counts in its group's statistics; not so excluded leaves and those without a finite reward."""
    segments: tuple[int, ...] = ()
    """Ids of its segments, in order; leaves of one prompt share those with the same id. Empty where it shares none."""
    is_parent: bool = False
    """Another leaf has forked from it."""


@dataclass(frozen=True)
class Group:
    """The leaves that one prompt has in a step."""

    task: str
    """Identity of the dataset's row (`task_digest`)."""
    prompt: str
    """Identity of the prompt's tokens alone."""
    leaves: tuple[GroupLeaf, ...]

    @property
    def counted(self) -> list[GroupLeaf]:
        """The leaves that count."""
        return [leaf for leaf in self.leaves if leaf.is_counted]

    @property
    def mean(self) -> float:
        """The mean reward of the leaves that count, NaN where there is none."""
        return statistics.fmean(leaf.reward for leaf in self.counted) if self.counted else math.nan


def task_digest(prompt_ids: Iterable[int], *more: Any) -> str:
    """Return the identity of a dataset's row: a digest of its prompt's tokens and of what else makes it another task.

    A row whose prompt, chat template, tools in the prompt or reference answer has changed is another task.

    Args:
        prompt_ids: of the prompt.
        *more: the data source and the reference answer, of any kind that JSON or `str` can write.
    """

    def plain(value: Any) -> Any:
        return value.tolist() if hasattr(value, "tolist") else str(value)

    said = json.dumps([list(map(int, prompt_ids)), *more], default=plain, sort_keys=True)
    return hashlib.sha256(said.encode("utf-8", "backslashreplace")).hexdigest()[:32]


def is_all_failed(group: Group, success: float, std_below: float, mean_below: float) -> bool:
    """Return whether a group has failed as a whole: no success, hardly any spread, and a low mean (ARPO-GUI).

    Args:
        group: the leaves; those that count are looked at, of which two are needed.
        success: the reward from which a leaf is a success.
        std_below: bound of the standard deviation (n - 1).
        mean_below: bound of the mean.
    """
    rewards = [leaf.reward for leaf in group.counted]
    return (
        len(rewards) >= 2
        and max(rewards) < success
        and statistics.stdev(rewards) < std_below
        and statistics.fmean(rewards) < mean_below
    )


def leaves_to_replace(group: Group, below: float = math.inf) -> list[GroupLeaf]:
    """Return the leaves that may be replaced, those first with which the least is lost.

    First leaves that share no token with others (an unforked root, a top-up); then leaves of the largest sets of
    siblings, of which the most are left. A leaf from which others have forked goes last. Of equals the last one goes.

    Args:
        group: the leaves; those that count are candidates, and one at least has to stay.
        below: the reward that a candidate does not reach.
    """
    candidates = [leaf for leaf in group.counted if leaf.reward < below]
    if len(group.counted) < 2:
        return []
    siblings = sibling_counts(group.counted)

    def loss(leaf: GroupLeaf) -> tuple[bool, bool, int, int]:
        count = siblings[leaf.key]
        return count > 1, leaf.is_parent, -count, -leaf.number

    return sorted(candidates, key=loss)[: len(group.counted) - 1]


def sibling_counts(leaves: Sequence[GroupLeaf]) -> dict[str, int]:
    """Return by key the size of the set of siblings at the last fork point above each leaf; 1: none has forked there.

    A leaf that ends where others fork is one more of these siblings.
    """
    children: dict[tuple[int, ...], set[Any]] = defaultdict(set)
    for leaf in leaves:
        path = leaf.segments
        for depth in range(1, len(path)):
            children[path[:depth]].add(path[depth])
        children[path].add(leaf.key)
    sizes = {}
    for leaf in leaves:
        path = leaf.segments
        counts = (len(children[path[:depth]]) for depth in range(len(path), 0, -1))
        sizes[leaf.key] = next((count for count in counts if count > 1), 1)
    return sizes
