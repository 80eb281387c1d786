"""One term of an advantage, as a configuration writes it."""

from dataclasses import dataclass

UNITS = ("leaf", "node")
SIGNALS = ("outcome", "turn_reward", "info_gain")
LEAF_BASELINES = ("none", "group", "group_tokens", "tree", "ancestors", "ancestors_by_size", "chains", "forks")
NODE_BASELINES = ("none", "group", "root", "parent", "children", "siblings", "shrunk", "turn")
SIGNAL_BASELINES = ("none", "turn", "joint")
SCALES = ("none", "std", "std_pop", "sqrt_leaves")
WITHOUT_SET = ("none", "root", "parent", "shrunk", "ancestors", "ancestors_by_size")
"""Baselines that are not the mean of a set whose deviation could be divided by."""
PLACES = ("all", "shared", "own", "chains", "forks")


@dataclass(frozen=True)
class Term:
    """weight * (value - baseline) / scale."""

    unit: str = "leaf"
    """`leaf`: the leaf's score, for all of its turns; `node`: the turn's value, for all copies of it."""
    baseline: str = "group"
    scale: str = "none"
    """What the difference is divided by: `none`, the standard deviation of n - 1 (`std`) or n (`std_pop`) of the set
    that makes the baseline, or the root of the number of a turn's leaves (`sqrt_leaves`)."""
    weight: float = 1.0
    signal: str = "outcome"
    """What turns are valued by: the leaf's score at its end, a reward of each turn (`turn_reward`), or what its result
    told about the answer (`info_gain`)."""
    discount: float | None = None
    """γ for each turn between a turn and what it is valued by; None values a turn by the value of its node, or by its
    own signal alone."""
    divides_by_sqrt_turns: bool = False
    """Whether a discounted sum of signals is divided by the root of their number (A²TGPO, arXiv 2605.06200)."""
    ends_with_score: bool = False
    """Whether the leaf's score is the signal of its last turn, whatever that one's own is (IGPO, arXiv 2510.14967)."""

    where: str = "all"
    """Which turns get it: `all`, those that several leaves share or that one leaf has for itself (`shared`, `own`),
    those of leaves that were started from the prompt (`chains`), or those of forks after their fork point (`forks`)."""
    once: bool = False
    """Whether the copies of a shared turn together weigh as much as one turn does."""

    def __post_init__(self) -> None:
        """Check the words.

        Raises:
            ValueError: one of them is not known.
        """
        baselines: tuple[str, ...] = LEAF_BASELINES if self.unit == "leaf" else NODE_BASELINES
        if self.unit == "node" and self.signal != "outcome":
            baselines = SIGNAL_BASELINES
        choices = {"unit": UNITS, "baseline": baselines, "scale": SCALES, "signal": SIGNALS, "where": PLACES}
        for name, known in choices.items():
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"the term {self} has {name}={value!r}; expected one of {', '.join(known)}: change it")
        self._check_scale()
        if self.unit == "leaf" and self.discount is not None:
            raise ValueError(f"the term {self} has a discount with unit=leaf; expected unit=node: change it")
        if self.divides_by_sqrt_turns and (self.signal == "outcome" or self.discount is None):
            raise ValueError(
                f"the term {self} has divides_by_sqrt_turns; expected it with a signal of turns and a discount: add "
                f"them, or leave it out"
            )
        if self.ends_with_score and self.signal == "outcome":
            raise ValueError(
                f"the term {self} has ends_with_score with signal=outcome; expected a signal of turns: change it"
            )
        if self.unit == "leaf" and self.signal != "outcome":
            raise ValueError(
                f"the term {self} has signal={self.signal!r} with unit=leaf; expected unit=node: change it"
            )

    @property
    def is_against_siblings(self) -> bool:
        """Whether it says nothing of a turn without siblings."""
        return self.signal == "outcome" and self.baseline in ("parent", "children", "siblings")

    def _check_scale(self) -> None:
        """Raise a ValueError for a scale that this term can't have."""
        has_deviation = self.scale in ("std", "std_pop")
        if has_deviation and self.baseline in WITHOUT_SET:
            raise ValueError(
                f"the term {self} has scale={self.scale!r} with baseline={self.baseline!r}, which no set of numbers "
                f"makes; expected scale=none, or another baseline such as children: change one of them"
            )
        if self.scale == "sqrt_leaves" and (self.unit == "leaf" or self.signal != "outcome"):
            raise ValueError(
                f"the term {self} has scale='sqrt_leaves'; expected it with unit=node and signal=outcome: change it"
            )
