"""The interface of a branching rule, with the defaults that most rules keep."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from arpo_verl.config import ArpoConfig
from arpo_verl.entropy import entropy_change
from arpo_verl.rollout.fork_outcome import ForkOutcome
from arpo_verl.rollout.protocols import EntropyMeasure
from arpo_verl.rollout.tree import Decision, Leaf, Tree
from arpo_verl.rollout.turn_points import TurnPoint


class Watch(Enum):
    """The turns of which the entropies of the first k tokens (`arpo.probe_tokens`) are measured."""

    ROOT_START = "root_start"
    """The first turn of a root: H_initial."""
    AFTER_RESULT = "after_result"
    """The turn after a tool result that the tree could fork at. The decision waits for it."""
    EVERY_TURN = "every_turn"
    """Every turn. The decision at a tool result sees the turn that ended in the call, unless it waits for the next."""


@dataclass(frozen=True)
class ForkPoint:
    """A leaf after a tool result: what a decision may depend on."""

    leaf: Leaf
    """The leaf that may fork. Read-only, but for its `rule_state`."""
    tree: Tree
    """The tree so far. Read-only, but for its `rule_state`."""
    entropies: list[float]
    """Entropies, in nats, of the first k tokens of the turn that the rule watches here; empty where it watches none."""
    vocabulary_size: int
    generator: random.Random
    """Seeded from the prompt's seed and the place in the tree: same seed, same draws at the same node."""
    tokens_left: int = 0
    """Tokens that the leaf may still have, sampled and of results."""
    turns_left: int = 0
    """Turns in which the leaf may still call tools."""
    source: str = ""
    """The `data_source` of the prompt; empty where it has none."""

    @property
    def places(self) -> int:
        """Leaves that are missing: the most forks that can be created. 0 where others took the last of them while this
        leaf's first tokens were sampled."""
        return self.tree.missing

    def change_since(self, initial: list[float]) -> float:
        """Return ΔH against earlier entropies (arXiv 2507.19849, equation 4)."""
        return entropy_change(self.entropies, initial, self.vocabulary_size)


@dataclass(frozen=True)
class Round:
    """A tree all of whose leaves have ended, with places for more: what a round of forks may depend on."""

    tree: Tree
    """Read-only, but for its `rule_state`. `tree.rounds` is the number of this round, from 1."""
    points: Sequence[TurnPoint]
    """The turns that can be sampled again."""
    vocabulary_size: int
    generator: random.Random
    """Seeded from the prompt's seed and the number of the round."""

    @property
    def places(self) -> int:
        """Leaves that are missing: the most forks that can be created."""
        return self.tree.missing


class BranchingRule:
    """Where and how often trees branch. A rule is a subclass with a `decide` of its own; the rest has defaults.

    One object serves all prompts of a worker, so it keeps nothing of a tree itself: what a rule has to remember lives
    in `Tree.rule_state` and `Leaf.rule_state`; a leaf's is copied, deeply, when it forks. The scheduler sees to it that
    exactly n leaves come out, whatever a rule says.
    """

    watches: ClassVar[frozenset[Watch]] = frozenset()
    """The turns at which entropies are measured. With `AFTER_RESULT` a fork point is decided when the first k tokens
    after the result are there, else before anything is sampled after it."""
    forks_online: bool = True
    """Whether the rule is asked at tool results, while leaves grow (`decide`)."""
    forks_in_rounds: bool = False
    """Whether the rule forks in rounds (`plan_round`): leaves then keep their states at the start of each turn, and are
    published when no round can follow."""
    needs_rewards: bool = False
    """Whether the rule looks at `leaf.reward`: a leaf's reward is then computed as it ends, before what is decided
    next in its round; None where there is none in time."""

    def __init__(self, config: ArpoConfig) -> None:
        """
        Args:
            config: the knobs. A rule of one's own may have further parameters, filled from `arpo.rule_kwargs`.

        Raises:
            ValueError: the knobs do not fit this rule.
        """
        self.config = config

    def check_leaves(self, leaves: int) -> None:
        """Check before a run starts that the rule's numbers fit n.

        Args:
            leaves: n.

        Raises:
            ValueError: they do not.
        """

    def entropy_measure(self) -> EntropyMeasure:
        """Return how entropies are computed where `arpo.entropy_source=topk`."""
        return EntropyMeasure(self.config.entropy_top_k)

    def tree_state(self) -> Any:
        """Return the initial state that the rule keeps for a tree."""
        return None

    def root_state(self) -> Any:
        """Return the initial state that the rule keeps for a leaf that starts from the prompt. A fork gets a deep copy
        of its parent's."""
        return None

    def new_roots(self, tree: Tree) -> int:
        """Return how many leaves to start from the prompt now. Asked at the beginning and whenever a leaf has ended.

        Args:
            tree: without leaves at the beginning.
        """
        return max(0, self.config.roots(tree.size) - tree.planned_roots)

    def later_roots(self, tree: Tree) -> int:
        """Return how many leaves `new_roots` may ask for later, at most: places that are kept for them."""
        return 0

    def decide(self, point: ForkPoint) -> Decision:
        """Decide how many leaves fork at a tool result. More than `point.places` are cut to that."""
        raise NotImplementedError(f"{type(self).__name__} has no `decide`; expected a method that returns a Decision")

    def plan_round(self, state: Round) -> Sequence[tuple[TurnPoint, Decision]]:
        """Decide which turns are sampled again, and how often. Asked when all leaves have ended and some are missing.

        Args:
            state: the tree, its turns, and a generator.

        Returns:
            Decisions about turns, in the order in which forks get places; those that bring none are only recorded.
            What a round leaves missing beyond `round_places` starts from the prompt.
        """
        return []

    def round_places(self, tree: Tree) -> int:
        """Return how many places are kept for rounds that have not begun, at most: nothing else gets them."""
        return 0

    def learn(self, memory: Mapping[str, Any] | None, outcomes: Sequence[ForkOutcome]) -> Mapping[str, Any] | None:
        """Return what the rule knows after a finished step. It is saved in checkpoints, and reaches the next prompts.

        Asked in the trainer's process at the end of each step, of an object that serves no prompts.

        Args:
            memory: what this has returned after the step before; None where there was none.
            outcomes: the step's decisions, each with what became of it.

        Returns:
            Dictionaries with texts as keys, lists, texts, finite numbers; or None for a rule that learns nothing.
        """
        return None

    def with_memory(self, memory: Mapping[str, Any]) -> "BranchingRule":
        """Return the rule as it decides for a prompt that was sent when `learn` had last returned `memory`."""
        return self

    def never_forks(self) -> str | None:
        """Return why this rule forks nowhere with these knobs, whatever it sees; None if it may."""
        if self.forks_online and self.config.branch_factor == 1:
            return "arpo.branch_factor=1: no path leaves a fork point but the parent's own"
        return None

    def possible_forks(self, tree: Tree, leaf: Leaf, decisions: int) -> int:
        """Return a bound on the leaves that one living leaf can still add, its descendants' forks included.

        Args:
            tree: the leaf's.
            leaf: a living leaf.
            decisions: tool results that the leaf can still receive, the one it has not decided about included.
        """
        return possible_forks(decisions, self.config.branch_factor, tree.size)

    def expected_forks(self, tree: Tree, leaf: Leaf, decisions: int) -> float:
        """Return how many leaves one living leaf is expected to add, its descendants' forks included.

        Args: as in `possible_forks`.
        """
        # What the tree has shown so far, with one calling turn added: nothing is given up before anything is seen.
        call_probability = (tree.calling_turns + 1) / (tree.turns + 1)
        forks = self.forks_at_a_decision(tree)
        return expected_forks(decisions, call_probability, forks, leaf.is_at_fork_point, tree.size)

    def forks_at_a_decision(self, tree: Tree) -> float:
        """Return how many forks one decision is expected to bring: α for each of Z - 1, and what the tree has shown."""
        seen = [decision for leaf in (*tree.living.values(), *tree.ended) for decision in leaf.decisions]
        prior = (self.config.branch_factor - 1) * self.mean_probability
        return (prior + sum(decision.forks for decision in seen)) / (1 + len(seen))

    @property
    def mean_probability(self) -> float:
        """α, the probability of a fork before anything is seen; a mean where it differs between fork points."""
        return self.config.base_probability


def possible_forks(decisions: int, branch_factor: int, at_most: int) -> int:
    """Return how many leaves one living leaf could still add: Z**decisions - 1, or `at_most` if that is less.

    Args:
        decisions: tool results that the leaf can still receive.
        branch_factor: Z.
        at_most: cap, because the power grows fast.
    """
    forks = 0
    for _ in range(decisions):
        forks = forks * branch_factor + branch_factor - 1
        if forks >= at_most or branch_factor == 1:
            break
    return min(forks, at_most)


def expected_forks(
    decisions: int, call_probability: float, forks: float, is_at_fork_point: bool, at_most: float
) -> float:
    """Return how many leaves one living leaf adds on average, at most `at_most`.

    Args:
        decisions: tool results that the leaf can still receive.
        call_probability: that a turn calls a tool.
        forks: mean forks at a tool result.
        is_at_fork_point: the first of the results has come already.
        at_most: cap, because the power grows fast.
    """
    added = 0.0
    for remaining in range(1, decisions + 1):
        reached = 1.0 if is_at_fork_point and remaining == decisions else call_probability
        added = reached * ((1 + forks) * (1 + added) - 1)
        if added >= at_most:
            return at_most
    return added


def never_by_chance(config: ArpoConfig, probabilities: Sequence[float] = ()) -> str | None:
    """Return why coins of probability α + β ΔH never bring a fork; None if they may.

    Args:
        config: has β, and α.
        probabilities: each α, where it differs between fork points.
    """
    if config.entropy_weight == 0 and not any(probabilities or [config.base_probability]):
        return "arpo.base_probability=0 with entropy_weight=0: every fork has the probability 0"
    return None


def probability_of_a_fork(score: float, candidates: int) -> float:
    """Return the probability that one of some coins at least brings a fork.

    Args:
        score: each coin's probability, not clipped.
        candidates: the number of coins.
    """
    return 1.0 - (1.0 - min(max(score, 0.0), 1.0)) ** candidates
