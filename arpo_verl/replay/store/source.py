"""What a source of replay is asked in a step, and what it answers."""

import math
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from arpo_verl.replay.store.group import Group, GroupLeaf, is_all_failed
from arpo_verl.replay.store.row import Limits, StoredRow

OldLogProb = Literal["current", "stored", "probability"]
"""Log-probabilities that a replayed row's ratio is taken to: under the weights at the step's beginning, which verl
computes as for every row; those that are stored with the row; or 0, with which the ratio is the probability itself."""

Trace = tuple[list[int], list[int]]
"""Token ids of a prompt and a response together, and 1 for each that the model wrote, else 0."""


@dataclass(frozen=True)
class ReplayContext:
    """What a source may know of the run."""

    leaves: int
    """n, leaves of a prompt."""
    rows_per_update: int
    """Rows of a mini-batch of the actor's update, so of one optimiser step."""
    limits: Limits
    seed: int = 0
    tokenizer: str = ""
    """Digest of the tokenizer; empty before it is loaded."""
    encode_traces: Callable[[str], list[Trace]] | None = None
    """Reads a file of traces as this run's rollout would have written them; None before the tokenizer is loaded."""


@dataclass(frozen=True)
class Use:
    """A stored row that the step is to train on."""

    row: StoredRow
    replaces: GroupLeaf | None = None
    """The leaf whose place it takes; None for a row that comes to the batch besides."""
    advantage: float | None = None
    """Its advantage, at every sampled token; it then counts in no group's statistics. None: it is estimated in the
    group of the leaf that it replaces, of whose statistics it is a part."""
    old_log_prob: OldLogProb = "current"
    weight: float = 1.0
    """Factor of its policy loss."""
    age: int = 0
    """Steps since it was sampled, for the log."""


@dataclass(frozen=True)
class State:
    """What a source carries from step to step and a checkpoint holds."""

    rows: Sequence[StoredRow] = ()
    numbers: dict[str, Any] = field(default_factory=dict)
    """Whatever JSON can write."""


class ReplaySource(ABC):
    """Chooses rows of past steps, or of elsewhere, that a step trains on; knows nothing of tensors or of verl.

    Its settings are keyword arguments of its constructor, from `arpo.replay_kwargs`. Choices have to follow from what
    it has been given and `ReplayContext.seed` alone, so that a resumed run chooses as an uninterrupted one.
    """

    old_log_prob: OldLogProb = "current"
    """What its uses say, for checks before a run starts."""
    needs_failed_groups: bool = False
    """It helps none but groups that fail as a whole, for the same checks."""

    def __init__(self, context: ReplayContext) -> None:
        self.context = context

    def begin(self, context: ReplayContext) -> None:
        """The tokenizer is loaded: the context is whole now.

        Raises:
            ValueError: a file of the settings can't be used with it.
        """
        self.context = context

    @abstractmethod
    def choose(self, groups: Sequence[Group], step: int) -> list[Use]:
        """Return what a step is to train on, given the leaves that it has grown."""

    def keeps(self, reward: float, advantage: float) -> bool:
        """Whether to keep a leaf that counts.

        Args:
            reward: its own.
            advantage: mean over its sampled tokens.
        """
        return False

    def finish(self, rows: Sequence[StoredRow], means: Sequence[float], step: int) -> None:  # noqa: B027  may do nothing
        """A step is finished, and belongs to the past.

        Args:
            rows: the leaves that `keeps` has said yes to.
            means: mean rewards of the step's groups, as they were grown.
            step: its number.
        """

    def state(self) -> State:
        """Return what a checkpoint has to hold."""
        return State()

    def load(self, state: State) -> None:  # noqa: B027  may do nothing
        """Go on from what `state` has returned."""

    def metrics(self) -> dict[str, float]:
        """Return numbers for the log, such as how many rows there are."""
        return {}


@dataclass(frozen=True)
class Trigger:
    """Which groups are helped."""

    when: Literal["all_failed", "always"]
    """`all_failed`: groups that fail as a whole (`is_all_failed`); `always`: every one with a leaf to replace."""
    success: float
    std_below: float
    mean_below: float

    def fires(self, group: Group) -> bool:
        """Whether a group is to be helped."""
        return self.when == "always" or is_all_failed(group, self.success, self.std_below, self.mean_below)


def make_trigger(when: Any, success: Any, std_below: Any, mean_below: Any) -> Trigger:
    """Return a trigger of settings.

    Raises:
        ValueError: one of them is not what it has to be; also where there is no test of success.
    """
    if success is None:
        raise ValueError(
            "arpo.replay_kwargs.success=None; expected the reward from which a leaf counts as a success: set it, such "
            "as arpo.replay_kwargs.success=1.0"
        )
    require_one_of("trigger", when, ("all_failed", "always"))
    numbers = {"success": success, "std_below": std_below, "mean_below": mean_below}
    for name, value in numbers.items():
        require_number(name, value)
    return Trigger(when, *map(float, numbers.values()))


def require_old_log_prob(value: Any, choices: Sequence[str] = get_args(OldLogProb)) -> OldLogProb:
    """Return a setting `old_log_prob`.

    Raises:
        ValueError: it is none of `choices`.
    """
    require_one_of("old_log_prob", value, choices)
    chosen: OldLogProb = value
    return chosen


def require_one_of(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raise a ValueError unless a setting is one of some words."""
    if value not in choices:
        raise ValueError(f"arpo.replay_kwargs.{name}={value!r}; expected one of {', '.join(choices)}: change it")


def require_number(name: str, value: Any) -> None:
    """Raise a ValueError unless a setting is a number that can be compared with."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise ValueError(f"arpo.replay_kwargs.{name}={value!r}; expected a number: change it")


def require_count(name: str, value: Any, least: int = 1, or_null: bool = False) -> None:
    """Raise a ValueError unless a setting is a whole number, or null where that is a setting too."""
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= least
    if not is_count and not (or_null and value is None):
        null = ", or null" if or_null else ""
        raise ValueError(
            f"arpo.replay_kwargs.{name}={value!r}; expected a whole number of at least {least}{null}: change it"
        )


def in_order(groups: Sequence[Group], seed: int, step: int) -> Iterator[tuple[Group, random.Random]]:
    """Yield a step's groups with a generator for each, in an order that no uid and no arrival has a part in."""
    seen: Counter[str] = Counter()
    for group in sorted(groups, key=lambda one: (one.task, sorted(leaf.reward for leaf in one.counted))):
        yield group, random.Random(f"{seed}/{step}/{group.task}/{seen[group.task]}")
        seen[group.task] += 1
