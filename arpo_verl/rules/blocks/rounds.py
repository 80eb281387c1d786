"""What rules share that fork in rounds: which turns are candidates, their scores, and how many forks a round has.

A round begins when all leaves have ended. L rounds of K forks follow N roots, N + L·K = M leaves where each finds its
turns; with K for each root it is N (1 + L·K). Nothing is measured while leaves grow: scores come from the sampled
tokens' log-probabilities and from the finished leaves.
"""

from collections.abc import Sequence
from typing import ClassVar

from arpo_verl.config import ArpoConfig
from arpo_verl.rollout.rule import BranchingRule, Round
from arpo_verl.rollout.tree import Decision, Tree
from arpo_verl.rollout.turn_points import TurnPoint
from arpo_verl.rules.blocks.gate import Gate
from arpo_verl.rules.blocks.penalty import Penalty
from arpo_verl.rules.blocks.roots import FIXED, Roots
from arpo_verl.rules.blocks.score import Score
from arpo_verl.rules.blocks.settings import one_name, refused, truth, whole_number

PROMPT, ROOT = "prompt", "root"


class RoundRule(BranchingRule):
    """A rule that samples turns of finished leaves again. A subclass has `choose`.

    Settings:
        rounds: L.
        forks: K, the forks of a round; None spreads what the roots leave of the leaves evenly over the rounds.
        forks_per_turn: how many of them each chosen turn gets.
        scope: `prompt`: K among all turns of the prompt; `root`: K among those of each root.
        first_turns: whether first turns are candidates; a fork there is a new root.
        score: `entropy`, `entropy_change`, `position`, `cost_ratio` or `constant`; None is the rule's own.
        position_power: γ of `position`.
        penalty: `none`, `siblings`, `consecutive`, `depth`, or a list of them.
        siblings_weight: α of `siblings`, in units of the score.
        consecutive_weight: κ of `consecutive`.
        depth_weight: λ of `depth`, in units of the score.
        gate: `always`, `tail`, `failed`, `accuracy`, or a list of them, all of which have to be open.
        tail_turns: j of `tail`.
        reward_threshold: leaves with at most this reward have failed, others succeeded.
        accuracy_range: the least and the largest share of succeeded leaves, for `accuracy`.
        roots: `fixed` (`arpo.initial_rollouts`, or what `forks` leaves) or `entropy_monitor`.
        monitor_weight: β of `entropy_monitor`.
    """

    forks_online = False
    forks_in_rounds = True
    default_score: ClassVar[str]
    """Of `score`, where the settings name none."""
    passed_over: ClassVar[str]
    """`Decision.limit` of a candidate that got fewer forks than others might have."""

    def __init__(  # noqa: PLR0913  the keywords are settings of `arpo.rule_kwargs`
        self,
        config: ArpoConfig,
        *,
        rounds: int = 1,
        forks: int | None = None,
        forks_per_turn: int = 1,
        scope: str = PROMPT,
        first_turns: bool = False,
        score: str | None = None,
        position_power: float = 2.0,
        penalty: str | Sequence[str] = "none",
        siblings_weight: float = 0.05,
        consecutive_weight: float = 0.05,
        depth_weight: float = 0.1,
        gate: str | Sequence[str] = "always",
        tail_turns: int = 3,
        reward_threshold: float = 0.0,
        accuracy_range: Sequence[float] = (0.0, 0.5),
        roots: str = FIXED,
        monitor_weight: float = 0.5,
    ) -> None:
        """
        Args:
            config: the knobs.

        The others are the class's settings.

        Raises:
            ValueError: one of them is none that it can be.
        """
        super().__init__(config)
        self.rounds = whole_number("rounds", rounds, 1)
        self.forks = None if forks is None else whole_number("forks", forks, 1)
        self.forks_per_turn = whole_number("forks_per_turn", forks_per_turn, 1)
        self.is_of_root = one_name("scope", scope, (PROMPT, ROOT)) == ROOT
        self.first_turns = truth("first_turns", first_turns)
        self.score = Score.of(self.default_score if score is None else score, config, position_power)
        self.penalty = Penalty.of(penalty, siblings=siblings_weight, consecutive=consecutive_weight, depth=depth_weight)
        self.gate = Gate.of(gate, reward_threshold, accuracy_range, tail_turns)
        self.needs_rewards = self.gate.needs_rewards
        self.roots = Roots.of(roots, config, monitor_weight)

    def check_leaves(self, leaves: int) -> None:
        if self.forks is None:
            return
        least = 1 if self.roots.has_monitor else self.config.initial_rollouts or 1
        forks = self.rounds * self.forks * (least if self.is_of_root else 1)
        if least + forks > leaves:
            each = " for each root" if self.is_of_root else ""
            raise refused(
                "forks",
                self.forks,
                f"at most n={leaves} (actor_rollout_ref.rollout.n) leaves of {least} from the prompt "
                f"(arpo.initial_rollouts) and rounds={self.rounds} times forks{each}, not {least + forks}",
            )

    def new_roots(self, tree: Tree) -> int:
        if self.roots.has_monitor:
            return self.roots.monitored(tree)
        if self.forks is None or self.config.initial_rollouts is not None:
            return super().new_roots(tree)
        forks = self.rounds * self.forks
        fitting = tree.size // (1 + forks) if self.is_of_root else tree.size - forks
        return max(0, max(1, fitting) - tree.planned_roots)

    def later_roots(self, tree: Tree) -> int:
        return tree.missing if self.roots.is_monitoring(tree) else 0

    def round_places(self, tree: Tree) -> int:
        left = self.rounds - tree.rounds
        if left <= 0 or self.forks is None:
            return tree.missing if left > 0 else 0
        return min(tree.missing, left * self.forks * (tree.roots if self.is_of_root else 1))

    def plan_round(self, state: Round) -> Sequence[tuple[TurnPoint, Decision]]:
        if state.tree.rounds > self.rounds:
            return []
        groups: dict[int, list[TurnPoint]] = {}
        for point in state.points:
            if self.first_turns or not point.is_first:
                groups.setdefault(point.root if self.is_of_root else 0, []).append(point)
        places, plan = state.places, []
        for points in groups.values():
            number = min(places, self._forks_of_round(state, len(groups)))
            decided = self._decide_about(state, points, number)
            places -= sum(decision.forks for _, decision in decided)
            plan += decided
        return plan

    def _forks_of_round(self, state: Round, groups: int) -> int:
        """Return K, for one of the groups."""
        if self.forks is not None:
            return self.forks
        rounds_left = self.rounds - state.tree.rounds + 1
        of_round = -(-state.places // rounds_left)
        return -(-of_round // groups)

    def _decide_about(self, state: Round, points: Sequence[TurnPoint], number: int) -> list[tuple[TurnPoint, Decision]]:
        """Give a number of forks to turns of one group."""
        scored = [self.score(state, point) for point in points]
        scores = [self.penalty.score(one.score, one.point.history) for one in scored]
        closed = self.gate.closed_for_prompt(state.tree)
        reasons = [closed or self.gate.closed_for_turn(point) for point in points]
        candidates = self._candidates(points, reasons)
        chosen = self.choose([scores[at] for at in candidates], number, state) if candidates and number else []
        forks = dict(zip(candidates, chosen, strict=False))
        decided = []
        for at, (one, score, reason) in enumerate(zip(scored, scores, reasons, strict=True)):
            if reason is not None or at in candidates:
                given = forks.get(at, 0)
                limit = reason or ("forks_per_turn" if given else self.passed_over)
                decided.append((one.point, Decision(given, limit, one.entropy_change, score=score)))
        return decided

    def _candidates(self, points: Sequence[TurnPoint], reasons: Sequence[str | None]) -> list[int]:
        """Return which turns can be chosen: those that no gate keeps out, one for each place that a score judges."""
        candidates, places = [], set()
        for at, (point, reason) in enumerate(zip(points, reasons, strict=True)):
            place = point.fork_point if self.score.is_of_fork_point else point.segment.id
            if reason is None and place not in places:
                candidates.append(at)
                places.add(place)
        return candidates

    def choose(self, scores: Sequence[float], number: int, state: Round) -> list[int]:
        """Return how many forks each candidate gets, `number` in all.

        Args:
            scores: of the candidates, one at least, penalties taken off.
            number: forks to give, one at least.
            state: the round, for its generator.
        """
        raise NotImplementedError(f"{type(self).__name__} has no `choose`; expected the number of forks of each turn")
