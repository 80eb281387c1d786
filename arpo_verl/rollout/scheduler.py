"""ARPO's rollout of one prompt (arXiv 2507.19849, algorithm 1), whatever the branching rule.

The rule says how many roots start from the prompt and, after a tool result, how many new leaves fork at its end. When
the living leaves can no longer bring the leaves still missing, the difference starts from the prompt at once. Exactly n
leaves come out; none is duplicated, none dropped.

Two schedules take the same steps. `async` runs one asyncio task a leaf: a fork starts at the moment that its parent's
first tokens are read, and nothing waits for the slowest generation or the slowest tool. `lockstep` advances all leaves
of the prompt turn by turn and decides in order of their numbers, so that the same seed gives the same tree.

A rule may also fork in rounds: when all leaves have ended and some are missing, it says which of their turns to sample
again. Such a fork begins where that turn began, with the states of then; a first turn sampled again is a new root. What
a round can't bring starts from the prompt. A leaf is handed on once no round can follow, with all decisions about it.

Differences from the released code: k fresh tokens are watched after the result (there: the tokens of the step before
it); H_initial belongs to the leaf's own root (there: to a batch position, for ever, so that from its second batch on it
is that of an older prompt); top-ups start when they have become certain and all together (there: one a round,
serially). That code has a branch that would copy a prompt's last leaf; it is never reached, as the top-ups come before
it.
"""

import math
import random
from collections.abc import Coroutine, Iterable
from dataclasses import replace
from typing import Any

from arpo_verl.config import ArpoConfig
from arpo_verl.entropy import surprisals
from arpo_verl.rollout.draws import RecordedDraws
from arpo_verl.rollout.protocols import Generation
from arpo_verl.rollout.rule import BranchingRule, ForkPoint, Round, Watch
from arpo_verl.rollout.tasks import Tasks
from arpo_verl.rollout.tree import (
    FAILED_CALL,
    NO_LEAF_MISSING,
    TOOL_CANNOT_FORK,
    Decision,
    Leaf,
    Refusal,
    Tree,
    TurnSnapshot,
    WatchedTurn,
    is_infrastructure,
)
from arpo_verl.rollout.turn_points import TurnPoint, turn_points
from arpo_verl.rollout.turns import RolloutServices, RolloutSettings, TurnRunner, TurnStart


class PromptRollout:
    """Grows the tree of one prompt. Single use: no state outlives the prompt."""

    def __init__(
        self, settings: RolloutSettings, config: ArpoConfig, rule: BranchingRule, services: RolloutServices
    ) -> None:
        if settings.leaves < 1:
            raise ValueError(f"leaves={settings.leaves}; expected at least 1: raise actor_rollout_ref.rollout.n")
        if settings.max_response_tokens < 1:
            raise ValueError(
                f"max_response_tokens={settings.max_response_tokens}; expected at least 1: shorten the prompt "
                f"({len(settings.prompt_ids)} tokens) or raise the response length"
            )
        self._settings = settings
        self._config = config
        self._rule = rule
        self._services = services
        self._turns = TurnRunner(settings, config, services, rule.entropy_measure())
        self._is_lockstep = config.schedule == "lockstep"
        self._decides_after_first_tokens = Watch.AFTER_RESULT in rule.watches
        self._may_branch = True
        self._tree = Tree(settings.leaves, rule_state=rule.tree_state())
        self._tasks = Tasks()
        self._held: list[Leaf] = []
        """Finished leaves that the rule may still decide about."""

    async def run(self) -> None:
        """Grow all leaves and pass each to `on_leaf`.

        Raises:
            Exception: whatever the engine, the rule or `on_leaf` raised; the other leaves are cancelled first, so that
                nothing of this prompt goes on afterwards.
        """
        try:
            self._start_planned_roots()
            # A tree that is complete with its roots has nothing to decide and nothing to measure.
            self._may_branch = self._tree.missing > 0
            self._top_up()
            await self._grow_living()
            while self._tree.missing:
                await self._start_round()
                await self._grow_living()
            await self._run_all(self._release_held())
        finally:
            await self._tasks.close()

    async def _grow_living(self) -> None:
        """Grow the living leaves, and what forks from them meanwhile, to their ends."""
        await (self._grow_in_lockstep() if self._is_lockstep else self._tasks.join())

    async def _start_round(self) -> None:
        """Start the forks of a round, and from the prompt what is missing beyond the rounds to come."""
        tree = self._tree
        tree.rounds += 1
        generator = random.Random(f"{self._settings.seed}/round {tree.rounds}")
        state = Round(tree, turn_points(tree.ended), self._settings.vocabulary_size, generator)
        planned, places = [], tree.missing
        for point, decision in self._rule.plan_round(state):
            decision = self._limited(decision, places, surprisals(point.segment.logprobs), "plan_round")
            planned.append((point, *await self._with_copies(point, decision)))
            places -= planned[-1][1].forks
        # All copies before the first leaf: one that ended while others are copied would be topped up for them.
        for point, decision, copies in planned:
            self._carry_out(point, replace(decision, fork_token=point.snapshot.tokens, round=tree.rounds), copies)
        self._top_up()
        if not tree.living:  # a rule that keeps places and gives none away
            self._start_top_ups(tree.missing)
        if not tree.missing:
            for publication in self._release_held():
                self._tasks.start(publication)

    async def _with_copies(self, point: TurnPoint, decision: Decision) -> tuple[Decision, list[dict[str, Any]]]:
        """Return a decision of a round with as many forks as copies of the turn's state can be made, and these."""
        if point.is_first or point.snapshot.state is None:
            return decision, []
        copies = await self._copies(point.snapshot.state["tool_state"], decision.forks)
        if len(copies) < decision.forks:
            decision = replace(decision, forks=len(copies), limit=TOOL_CANNOT_FORK)
        return decision, copies

    def _carry_out(self, point: TurnPoint, decision: Decision, copies: list[dict[str, Any]]) -> None:
        """Start the forks of a turn and record the decision with the leaf that sampled it."""
        for number in range(decision.forks):
            if point.is_first:
                self._tree.resampled_roots += 1
                self._start_root(is_top_up=False)
            else:
                self._fork(point.leaf, copies[number], at=point.snapshot)
        point.leaf.decisions.append(decision)

    async def _copies(self, state: dict[str, Any], number: int) -> list[dict[str, Any]]:
        """Return as many copies of the tools' state as can be made, `number` at most."""
        copies: list[dict[str, Any]] = []
        while len(copies) < number and (one := await self._services.states.fork(state)) is not None:
            copies.append(one)
        return copies

    def _release_held(self) -> list[Coroutine[Any, Any, None]]:
        """Return what publishes the leaves that nothing can be decided about any more."""
        held, self._held = self._held, []
        return [self._services.on_leaf(leaf) for leaf in held]

    def _start_planned_roots(self) -> None:
        """Start the roots that the rule asks for."""
        for _ in range(min(self._rule.new_roots(self._tree), self._tree.missing)):
            self._tree.planned_roots += 1
            self._start_root(is_top_up=False)

    def _top_up(self) -> None:
        """Start new roots in place of the leaves that neither forks nor later roots will add."""
        self._start_top_ups(self._required_top_ups())

    def _start_top_ups(self, number: int) -> None:
        for _ in range(number):
            self._tree.top_ups += 1
            self._start_root(is_top_up=True)

    def _required_top_ups(self) -> int:
        """Return the number of missing leaves that forks can't add; all of them where no leaf lives and no round
        follows."""
        tree, rule = self._tree, self._rule
        if not tree.missing:
            return 0
        kept = rule.round_places(tree)
        living = [(leaf, self._decisions_left(leaf)) for leaf in tree.living.values()]
        if not living:
            return max(0, tree.missing - kept)
        if not rule.forks_online:
            coming = 0.0
        elif self._config.top_ups == "expected":
            coming = sum(rule.expected_forks(tree, leaf, decisions) for leaf, decisions in living)
        else:
            coming = sum(rule.possible_forks(tree, leaf, decisions) for leaf, decisions in living)
        return max(0, tree.missing - math.ceil(coming) - rule.later_roots(tree) - kept)

    def _decisions_left(self, leaf: Leaf) -> int:
        return self._turns.turns_left(leaf) + leaf.is_at_fork_point if leaf.is_forkable else 0

    def _start_root(self, is_top_up: bool) -> None:
        path = str(self._tree.roots - 1)
        request_id = f"{self._settings.seed}/{path}"
        self._start(Leaf(self._tree.created, path, request_id, is_top_up=is_top_up, rule_state=self._rule.root_state()))

    def _start(self, leaf: Leaf) -> None:
        self._tree.created += 1
        self._tree.living[leaf.number] = leaf
        if not self._is_lockstep:
            self._tasks.start(self._grow(leaf))

    async def _grow(self, leaf: Leaf) -> None:
        """The `async` schedule of one leaf."""
        while leaf.stop_reason is None:
            await self._decide_before_turn(leaf)
            await self._keep_snapshot(leaf)
            watched = self._watched_tokens(leaf)
            start = await self._turns.begin(leaf, watched, self._is_probed(leaf))
            await self._read_entropies(leaf, start, watched)
            await self._turns.end(leaf, start)
            self._count_turn(leaf)
            if leaf.stop_reason is not None:
                self._remove(leaf)
            self._top_up()
        await self._hand_on(leaf)

    async def _hand_on(self, leaf: Leaf) -> None:
        """Have a finished leaf scored, where the rule looks at rewards, and published, unless a round may follow."""
        if self._rule.needs_rewards and self._services.score is not None and self._tree.missing:
            await self._services.score(leaf)
        if self._rule.forks_in_rounds and self._tree.missing:
            self._held.append(leaf)
        else:
            await self._services.on_leaf(leaf)

    async def _grow_in_lockstep(self) -> None:
        """The `lockstep` schedule of all leaves. Leaves that are created in a turn begin with the next one."""
        living = self._tree.living
        while living:
            for leaf in list(living.values()):
                await self._decide_before_turn(leaf)
            leaves = list(living.values())
            for leaf in leaves:
                await self._keep_snapshot(leaf)
            watched = [self._watched_tokens(leaf) for leaf in leaves]
            starts = await self._run_all(
                self._turns.begin(leaf, tokens, self._is_probed(leaf))
                for leaf, tokens in zip(leaves, watched, strict=True)
            )
            for leaf, start, tokens in zip(leaves, starts, watched, strict=True):
                await self._read_entropies(leaf, start, tokens)
            await self._run_all(self._turns.end(leaf, start) for leaf, start in zip(leaves, starts, strict=True))
            for leaf in leaves:
                self._count_turn(leaf)
            ended = [leaf for leaf in leaves if leaf.stop_reason is not None]
            for leaf in ended:
                self._remove(leaf)
            self._top_up()
            await self._run_all(self._hand_on(leaf) for leaf in ended)

    async def _run_all(self, steps: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
        """Run coroutines at the same time and return their results in order."""
        tasks = [self._tasks.start(step) for step in steps]
        await self._tasks.join()
        return [task.result() for task in tasks if task is not None]

    def _count_turn(self, leaf: Leaf) -> None:
        self._tree.turns += 1
        self._tree.calling_turns += leaf.is_at_fork_point

    def _remove(self, leaf: Leaf) -> None:
        del self._tree.living[leaf.number]
        self._tree.ended.append(leaf)
        self._services.states.release(leaf.tool_state)
        self._start_planned_roots()

    async def _keep_snapshot(self, leaf: Leaf) -> None:
        """Remember the start of a turn that a round may sample again."""
        if self._rule.forks_in_rounds and self._tree.missing:
            copies = await self._copies(leaf.tool_state, 1) if leaf.is_forkable else []
            leaf.keep_snapshot(copies[0] if copies else None, can_fork=bool(copies))

    def _can_fork(self, leaf: Leaf) -> bool:
        """Whether the leaf is at a fork point and the tree has a place for another leaf."""
        is_asked = self._rule.forks_online and leaf.is_at_fork_point
        return is_asked and leaf.is_forkable and self._tree.missing > 0

    def _watched_tokens(self, leaf: Leaf) -> int:
        """Return the number of the next turn's first tokens at which the entropy is measured: k or 0."""
        watches = self._rule.watches
        is_watched = self._may_branch and (
            Watch.EVERY_TURN in watches
            or (Watch.ROOT_START in watches and not leaf.turn_entropies)
            or (Watch.AFTER_RESULT in watches and self._can_fork(leaf))
        )
        return self._config.probe_tokens if is_watched else 0

    def _is_probed(self, leaf: Leaf) -> bool:
        """Whether the watched tokens have a request of their own: where a decision waits for them, and where the server
        would otherwise measure the whole turn."""
        if not self._watched_tokens(leaf) or self._config.branch_timing != "probe":
            return False
        if Watch.EVERY_TURN in self._rule.watches:
            return False
        waits = self._decides_after_first_tokens and self._can_fork(leaf)
        return waits or self._config.entropy_source == "topk"

    async def _read_entropies(self, leaf: Leaf, start: TurnStart, watched: int) -> None:
        """Keep the measured entropies; at a fork point, decide about branching."""
        if not watched:
            return
        entropies = self._entropies(start.generation)
        if self._decides_after_first_tokens and leaf.is_at_fork_point and entropies:
            await self._decide(leaf, entropies)
        leaf.turn_entropies.append(entropies)
        leaf.watched_turns.append(WatchedTurn(leaf.length, entropies))

    def _entropies(self, generation: Generation) -> list[float]:
        if self._config.entropy_source == "surprisal":
            return surprisals(generation.logprobs[: self._config.probe_tokens])
        expected = min(self._config.probe_tokens, len(generation.token_ids))
        if generation.entropies is None or len(generation.entropies) < expected:
            raise RuntimeError(
                f"the inference server returned the entropies {generation.entropies}; expected {expected} of them: set "
                f"arpo.entropy_source=surprisal, which works with any server"
            )
        return generation.entropies[:expected]

    async def _decide_before_turn(self, leaf: Leaf) -> None:
        """Decide before anything is sampled after the result, by the last turn's entropies where those are watched."""
        if self._may_branch and self._rule.forks_online and leaf.is_at_fork_point and not self._can_fork(leaf):
            leaf.refusals.append(Refusal(leaf.length, self._refusal(leaf)))
        if not self._decides_after_first_tokens and self._can_fork(leaf):
            is_measured = Watch.EVERY_TURN in self._rule.watches and leaf.turn_entropies
            await self._decide(leaf, leaf.turn_entropies[-1] if is_measured else [])

    def _refusal(self, leaf: Leaf) -> str:
        """Return why the rule is not asked at a fork point."""
        if leaf.is_forkable:
            return NO_LEAF_MISSING
        has_failed = any(is_infrastructure(call.status) for call in leaf.calls)
        return FAILED_CALL if has_failed and "infrastructure" in self._config.exclude else TOOL_CANNOT_FORK

    async def _decide(self, leaf: Leaf, entropies: list[float]) -> None:
        """Fork at the end of the tool result, as often as the rule says and the budget allows."""
        generator = RecordedDraws(f"{self._settings.seed}/{leaf.path}.{leaf.tool_calls}")
        point = ForkPoint(
            leaf,
            self._tree,
            entropies,
            self._settings.vocabulary_size,
            generator,
            tokens_left=self._turns.tokens_left(leaf),
            turns_left=self._turns.turns_left(leaf),
            source=self._settings.source,
        )
        decision = self._limited(self._rule.decide(point), self._tree.missing, entropies, "decide")
        copies = await self._copies(leaf.tool_state, decision.forks)
        if len(copies) < decision.forks:
            decision = replace(decision, forks=len(copies), limit=TOOL_CANNOT_FORK)
            leaf.is_forkable = False
        if self._tree.missing < decision.forks:  # others have forked while this leaf's state was copied
            decision = replace(decision, forks=self._tree.missing, limit=NO_LEAF_MISSING)
        for copy in copies[: decision.forks]:
            self._fork(leaf, copy)
        for surplus in copies[decision.forks :]:
            self._services.states.release(surplus)
        leaf.decisions.append(replace(decision, fork_token=leaf.length, draws=generator.drawn))
        leaf.is_at_fork_point = False
        self._top_up()

    def _fork(self, leaf: Leaf, tool_state: dict[str, Any], at: TurnSnapshot | None = None) -> None:
        """Start a leaf at the present end of another, or at the start of a turn to sample again."""
        node = f"{leaf.path}.{leaf.tool_calls if at is None else at.tool_calls}"
        forks = self._tree.forks_at
        self._start(leaf.fork(self._tree.created, f"{node}.{forks[node]}", at, tool_state))
        forks[node] += 1

    def _limited(self, decision: Decision, places: int, entropies: list[float], method: str) -> Decision:
        """Return what a method of the rule has decided, with as many forks as there are places."""
        if not isinstance(decision, Decision) or decision.forks < 0:
            raise TypeError(
                f"{type(self._rule).__name__}.{method} returned {decision!r}; expected a Decision with 0 forks or more"
            )
        limit = decision.limit if decision.forks <= places else NO_LEAF_MISSING
        mean = sum(entropies) / len(entropies) if entropies else None
        return replace(decision, forks=min(decision.forks, places), limit=limit, entropy=mean)
