"""Forks in rounds: turns of finished leaves sampled again, with the states of then, and exactly n leaves."""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from fakes import END, Collector, ScriptedEngine, ScriptedTools, continued, ids, pause, syntax, text
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_checks import check_tree

from arpo_verl.config import ArpoConfig
from arpo_verl.rollout.leaf_record import LeafRecord
from arpo_verl.rollout.metrics import tree_metrics
from arpo_verl.rollout.protocols import ToolAnswer
from arpo_verl.rollout.rule import BranchingRule, Round
from arpo_verl.rollout.scheduler import PromptRollout
from arpo_verl.rollout.tree import Decision, Leaf, StopReason, Tree
from arpo_verl.rollout.turn_points import TurnPoint
from arpo_verl.rollout.turns import RolloutServices, RolloutSettings
from arpo_verl.rules import build_rule

CALL = "<python>1+1</python>"
RESULT = " <result>\n2\n</result>"
SIZES = RolloutSettings(ids("Q:"), leaves=4, max_response_tokens=1000, vocabulary_size=100, seed="s")
SCHEDULES = pytest.mark.parametrize("schedule", ["async", "lockstep"])


def two_calls(context: str) -> str:
    """Call a tool twice, then answer."""
    return continued(context, CALL, CALL, f"so 2{END}")


def grow(rule: BranchingRule, sizes: RolloutSettings = SIZES, **world: Any) -> list[Leaf]:
    """Run one rollout and return its leaves, in order of their numbers."""
    collector = world.pop("collector", None) or Collector()
    engine = world.pop("engine", None) or ScriptedEngine(two_calls)
    tools = world.pop("tools", None) or ScriptedTools(lambda call: "2")
    services = RolloutServices(engine, tools, syntax(), collector, **world)
    asyncio.run(PromptRollout(sizes, rule.config, rule, services).run())
    return sorted(collector.leaves, key=lambda leaf: leaf.number)


class Planned(BranchingRule):
    """One root, then a list of rounds, each a list of (leaf, turn, forks)."""

    forks_online = False
    forks_in_rounds = True

    def __init__(self, config: ArpoConfig, *plans: Sequence[tuple[int, int, int]]) -> None:
        super().__init__(replace(config, initial_rollouts=1))
        self.plans = plans
        self.seen: list[list[tuple[int, int]]] = []

    def plan_round(self, state: Round) -> list[tuple[TurnPoint, Decision]]:
        points = {(point.leaf.number, point.snapshot.turn): point for point in state.points}
        self.seen.append(list(points))
        plan = self.plans[state.tree.rounds - 1] if state.tree.rounds <= len(self.plans) else []
        return [(points[leaf, turn], Decision(forks, "planned", score=0.5)) for leaf, turn, forks in plan]

    def round_places(self, tree: Tree) -> int:
        return tree.missing if tree.rounds < len(self.plans) else 0


def planned(*plans: Sequence[tuple[int, int, int]], schedule: str = "async", **knobs: Any) -> Planned:
    return Planned(ArpoConfig(schedule=schedule, **knobs), *plans)


@SCHEDULES
def test_a_turn_is_sampled_again_from_the_end_of_the_result_before_it(schedule):
    rule = planned([(0, 1, 1), (0, 2, 2)], schedule=schedule)
    leaves = grow(rule)
    turn = len(CALL + RESULT)
    assert [(leaf.parent, leaf.fork_token, leaf.path) for leaf in leaves] == [
        (None, None, "0"), (0, turn, "0.1.0"), (0, 2 * turn, "0.2.0"), (0, 2 * turn, "0.2.1"),
    ]  # fmt: skip
    assert {text(leaf.token_ids) for leaf in leaves} == {(CALL + RESULT) * 2 + f"so 2{END}"}
    assert [(leaf.tool_calls, leaf.tool_turns) for leaf in leaves] == [(2, 2)] * 4
    assert rule.seen == [[(0, 0), (0, 1), (0, 2)]]
    assert not any(leaf.is_top_up for leaf in leaves)


@SCHEDULES
def test_a_later_round_sees_the_forks_of_an_earlier_one_each_turn_once(schedule):
    rule = planned([(0, 1, 1)], [(1, 1, 1), (1, 2, 1)], schedule=schedule)
    leaves = grow(rule)
    # The fork's own turns are the two after the first result; the shared one is its parent's.
    assert rule.seen == [[(0, 0), (0, 1), (0, 2)], [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2)]]
    turn = len(CALL + RESULT)
    assert [(leaf.parent, leaf.fork_token) for leaf in leaves[1:]] == [(0, turn), (1, turn), (1, 2 * turn)]
    # A sibling by the fork's turn shares exactly the first turn and its result with both.
    assert leaves[2].segment_ids[:turn] == leaves[0].segment_ids[:turn]
    assert leaves[2].segment_ids[turn] not in (leaves[0].segment_ids[turn], leaves[1].segment_ids[turn])


@SCHEDULES
def test_a_first_turn_sampled_again_is_a_new_root(schedule):
    leaves = grow(planned([(0, 0, 2), (0, 2, 1)], schedule=schedule))
    assert [(leaf.parent, leaf.fork_token, leaf.path) for leaf in leaves[:3]] == [
        (None, None, "0"), (None, None, "1"), (None, None, "2"),
    ]  # fmt: skip
    assert leaves[3].parent == 0
    assert not any(leaf.is_top_up for leaf in leaves)
    assert len({leaf.segment_ids[0] for leaf in leaves[:3]}) == 3
    assert len({leaf.request_id for leaf in leaves}) == 3


@SCHEDULES
def test_what_a_round_does_not_bring_starts_from_the_prompt_and_its_turns_are_seen_next(schedule):
    class Frugal(Planned):
        """Keeps one place for its second round."""

        def round_places(self, tree: Tree) -> int:
            return {0: 3, 1: 1}.get(tree.rounds, 0)

    rule = Frugal(ArpoConfig(schedule=schedule), [(0, 1, 1)], [(2, 2, 1)])
    leaves = grow(rule)
    assert [(leaf.parent, leaf.is_top_up) for leaf in leaves] == [(None, False), (0, False), (None, True), (2, False)]


@SCHEDULES
def test_a_rule_that_keeps_places_for_ever_and_gives_none_away_ends_with_all_leaves(schedule):
    class Miser(Planned):
        def round_places(self, tree: Tree) -> int:
            return 100

    leaves = grow(Miser(ArpoConfig(schedule=schedule)))
    assert [leaf.is_top_up for leaf in leaves] == [False, True, True, True]


def test_more_forks_than_there_are_places_are_cut_in_the_order_of_the_plan():
    leaves = grow(planned([(0, 2, 2), (0, 1, 9), (0, 0, 1)]))
    limits = [(one.forks, one.limit, one.fork_token, one.round) for one in leaves[0].decisions]
    turn = len(CALL + RESULT)
    assert limits == [
        (2, "planned", 2 * turn, 1), (1, "no_leaf_missing", turn, 1), (0, "no_leaf_missing", 0, 1),
    ]  # fmt: skip


def test_a_decision_in_a_round_has_the_turns_mean_surprisal_and_is_in_the_published_record():
    published = []

    async def publish(leaf: Leaf) -> None:
        published.append(LeafRecord.from_leaf(leaf, 4))

    class Rising(ScriptedEngine):
        async def generate(self, request):
            self.logprob = -1.0 - text(request.token_ids).count("</result>")
            return await super().generate(request)

    rule = planned([(0, 1, 2)], [(1, 2, 1)])
    services = RolloutServices(Rising(two_calls), ScriptedTools(lambda call: "2"), syntax(), publish)
    asyncio.run(PromptRollout(SIZES, rule.config, rule, services).run())
    records = {record.number: record for record in published}
    assert [(one.entropy, one.score, one.round, one.forks) for one in records[0].decisions] == [(2.0, 0.5, 1, 2)]
    assert [(one.entropy, one.score, one.round, one.forks) for one in records[1].decisions] == [(3.0, 0.5, 2, 1)]
    assert LeafRecord.from_dict(records[0].as_dict()) == records[0]
    metrics = tree_metrics({"prompt": published})
    assert metrics["arpo/fork_score"] == 0.5
    assert metrics["arpo/forks_in_rounds_per_prompt"] == 3
    assert metrics["arpo/fork_limit/planned"] == 1
    assert "arpo/branch_probability" not in metrics


@SCHEDULES
def test_leaves_are_published_as_soon_as_no_round_can_follow(schedule):
    log = []

    class Watched(ScriptedEngine):
        async def generate(self, request):
            if request.token_ids == ids("Q:" + (CALL + RESULT) * 2):
                log.append("answer")
            await asyncio.sleep(0.01)
            return await super().generate(request)

    async def publish(leaf: Leaf) -> None:
        log.append(leaf.number)

    rule = planned([(0, 2, 1)], [(0, 2, 1)], schedule=schedule)
    sizes = replace(SIZES, leaves=3)
    services = RolloutServices(Watched(two_calls), ScriptedTools(lambda call: "2"), syntax(), publish)
    asyncio.run(PromptRollout(sizes, rule.config, rule, services).run())
    # The last round has begun: the first two are out before or while its leaf grows, not after.
    assert log[:2] == ["answer", "answer"]
    assert sorted(log[2:5], key=str) == [0, 1, "answer"]
    assert log[5:] == [2]


class Remembering(ScriptedTools):
    """Counts the calls of each leaf in its state; a call of a search binds the state so that it can't be copied."""

    async def execute(self, call, state, messages):
        self.calls.append(call)
        state["count"] = state.get("count", 0) + 1
        if call.name == "search":
            state["open"] = (number for number in range(3))  # a generator can't be copied
        return ToolAnswer(str(state["count"]), "ok")

    def can_fork(self, name: str) -> bool:
        return name != "search"


@SCHEDULES
def test_a_fork_begins_with_the_tools_state_of_then_and_not_with_that_of_the_end(schedule):
    leaves = grow(planned([(0, 1, 1), (0, 2, 2)], schedule=schedule), tools=Remembering(None))
    assert [leaf.tool_state["count"] for leaf in leaves] == [2] * 4
    first, second = [f" <result>\n{count}\n</result>" for count in (1, 2)]
    assert {text(leaf.token_ids) for leaf in leaves} == {CALL + first + CALL + second + f"so 2{END}"}


def test_two_forks_of_one_turn_have_states_of_their_own():
    leaves = grow(planned([(0, 1, 3)]), tools=Remembering(None))
    assert len({id(leaf.tool_state) for leaf in leaves}) == 4
    assert [leaf.tool_state["count"] for leaf in leaves] == [2] * 4


def test_turns_after_a_tool_whose_state_cannot_be_copied_are_not_offered_and_those_before_are():
    def write(context: str) -> str:
        return continued(context, CALL, "<search>x</search>", CALL, f"so 2{END}")

    rule = planned([(0, 1, 3)])
    leaves = grow(rule, engine=ScriptedEngine(write), tools=Remembering(None))
    assert rule.seen == [[(0, 0), (0, 1)]]
    assert [leaf.parent for leaf in leaves] == [None, 0, 0, 0]


def test_a_state_that_cannot_be_copied_against_what_its_tool_says_costs_no_leaf(caplog):
    class Pretending(Remembering):
        def can_fork(self, name: str) -> bool:
            return True

    def write(context: str) -> str:
        return continued(context, CALL, "<search>x</search>", f"so 2{END}")

    rule = planned([(0, 1, 3)])
    leaves = grow(rule, engine=ScriptedEngine(write), tools=Pretending(None))
    assert rule.seen == [[(0, 0), (0, 1)]]
    assert [leaf.parent for leaf in leaves] == [None, 0, 0, 0]
    assert "a leaf can't be forked: its tools' state can't be copied: TypeError" in caplog.text


def test_a_turn_without_a_token_is_not_offered():
    rule = planned([])
    grow(rule, engine=ScriptedEngine(lambda context: CALL if context == "Q:" else ""))
    assert rule.seen == [[(0, 0)]]


def test_a_rule_that_forks_online_alone_keeps_no_snapshots():
    config = ArpoConfig(initial_rollouts=1, base_probability=1.0, probe_tokens=3)
    assert [leaf.snapshots for leaf in grow(build_rule(config))] == [[]] * 4


def test_a_leafs_rule_state_and_entropies_are_those_of_the_turns_start():
    class Counting(Planned):
        forks_online = True
        watches = frozenset()

        def root_state(self) -> list[int]:
            return []

        def possible_forks(self, tree: Tree, leaf: Leaf, decisions: int) -> int:
            return 0

        def decide(self, point) -> Decision:
            point.leaf.rule_state.append(point.leaf.tool_turns)
            return Decision(0, "never")

    leaves = grow(Counting(ArpoConfig(), [(0, 1, 1), (0, 2, 1), (0, 0, 1)]))
    # Once no leaf is missing nobody is asked; until then a fork has what its prefix had.
    assert [leaf.rule_state for leaf in leaves] == [[1, 2], [1], [1, 2], []]


def test_a_fork_has_the_time_that_was_left_when_the_turn_began(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    class Slow(ScriptedTools):
        async def execute(self, call, state, messages):
            nonlocal now
            now += 10.0
            return await super().execute(call, state, messages)

    leaves = grow(planned([(0, 1, 1)], [(0, 2, 1)], [(0, 2, 1)], max_leaf_seconds=25.0), tools=Slow(lambda call: "2"))
    # The root takes 20 s. A fork of its second turn has used 10 s by then and takes 10 more; forks of the last turn
    # have used 20 s, however long the others have taken in between.
    assert now == 30.0
    assert [leaf.stop_reason for leaf in leaves] == [StopReason.COMPLETED] * 4
    late = grow(planned([(0, 1, 3)], max_leaf_seconds=15.0), tools=Slow(lambda call: "2"))
    # The root is out of time after its second result, and so is each fork: 10 s before, 10 s of its own.
    assert [leaf.stop_reason for leaf in late] == [StopReason.TIME_LIMIT] * 4


class Judged(BranchingRule):
    """Forks the last turn of each leaf whose reward is 0, in rounds."""

    forks_online, forks_in_rounds, needs_rewards = False, True, True

    def plan_round(self, state: Round) -> list[tuple[TurnPoint, Decision]]:
        last = [point for point in state.points if point.below[0].turns == point.snapshot.turn + 1]
        return [(point, Decision(int(point.leaf.reward == 0), "reward")) for point in last]

    def round_places(self, tree: Tree) -> int:
        return tree.missing if tree.rounds < 1 else 0


@SCHEDULES
def test_a_round_waits_for_the_rewards_that_its_rule_needs(schedule):
    async def score(leaf: Leaf) -> None:
        await asyncio.sleep(0.01 * (leaf.number + 1))
        leaf.reward = None if leaf.number == 2 else float(leaf.number == 1)

    rule = Judged(ArpoConfig(initial_rollouts=3, schedule=schedule))
    leaves = grow(rule, replace(SIZES, leaves=5), score=score)
    # Only leaf 0 has failed; leaf 2's reward is not known. The place that is left goes to a root.
    assert [leaf.parent for leaf in leaves] == [None, None, None, 0, None]
    assert [leaf.is_top_up for leaf in leaves] == [False] * 4 + [True]


def test_without_rewards_during_the_rollout_a_rule_that_needs_them_still_ends_with_all_leaves():
    leaves = grow(Judged(ArpoConfig(initial_rollouts=2)))
    assert [leaf.parent for leaf in leaves] == [None] * 4


def test_no_leaf_is_scored_for_a_rule_that_does_not_look():
    async def score(leaf: Leaf) -> None:
        raise AssertionError("nobody has asked")

    assert len(grow(planned([(0, 1, 3)]), score=score)) == 4


def test_a_plan_without_a_decision_is_named():
    class Broken(Planned):
        def plan_round(self, state: Round):
            return [(state.points[0], 1)]

    with pytest.raises(TypeError, match=r"Broken\.plan_round returned 1; expected a Decision"):
        grow(Broken(ArpoConfig(), []))


def test_a_rollout_that_fails_in_a_round_publishes_nothing_and_leaves_no_task_behind():
    class Failing(ScriptedEngine):
        async def generate(self, request):
            if len(self.requests) > 3:
                raise RuntimeError("server is gone")
            return await super().generate(request)

    async def run() -> tuple[int, int]:
        collector, rule = Collector(), planned([(0, 1, 1)], [(0, 1, 2)])
        services = RolloutServices(Failing(two_calls), ScriptedTools(lambda call: "2"), syntax(), collector)
        with pytest.raises(RuntimeError, match="server is gone"):
            await PromptRollout(SIZES, rule.config, rule, services).run()
        return len(collector.leaves), len(asyncio.all_tasks())

    assert asyncio.run(run()) == (0, 1)


def kwargs_of_rounds(draw: Any) -> dict[str, Any]:
    return {
        "rounds": draw(st.integers(1, 3)),
        "forks": draw(st.sampled_from([None, 1, 2, 5])),
        "forks_per_turn": draw(st.integers(1, 3)),
        "scope": draw(st.sampled_from(["prompt", "root"])),
        "first_turns": draw(st.booleans()),
        "score": draw(st.sampled_from(["entropy", "entropy_change", "position", "cost_ratio", "constant"])),
        "penalty": draw(st.sampled_from(["none", "siblings", "consecutive", "depth", ["siblings", "consecutive"]])),
        "siblings_weight": draw(st.sampled_from([0.05, 2.0])),
        "gate": draw(st.sampled_from(["always", "tail", "failed", "accuracy", ["tail", "accuracy"]])),
        "tail_turns": draw(st.integers(1, 3)),
        "roots": draw(st.sampled_from(["fixed", "entropy_monitor"])),
    }


def kwargs_of_coins(draw: Any) -> dict[str, Any]:
    return {
        "depth_probabilities": draw(st.sampled_from([None, [0.1, 0.9], [1.0]])),
        "penalty": draw(st.sampled_from(["none", "consecutive", "depth", ["depth", "consecutive"]])),
        "consecutive_weight": draw(st.sampled_from([0.05, 1.0])),
        "gate": draw(st.sampled_from(["always", "accuracy"])),
        "roots": draw(st.sampled_from(["fixed", "entropy_monitor"])),
    }


@st.composite
def worlds(draw):
    """A rule with any of its settings, sizes, and a model that calls tools at random."""
    rule = draw(st.sampled_from(["top_k", "sample", "top_k", "sample", "bernoulli", "threshold"]))
    leaves = draw(st.integers(1, 12))
    config = ArpoConfig(
        rule=rule,
        rule_kwargs=(kwargs_of_rounds if rule in ("top_k", "sample") else kwargs_of_coins)(draw),
        initial_rollouts=draw(st.sampled_from([None, 1, leaves])),
        branch_factor=draw(st.integers(2, 3)),
        probe_tokens=draw(st.integers(1, 25)),
        max_tool_calls=draw(st.integers(0, 4)),
        top_ups=draw(st.sampled_from(["certain", "expected"])),
        branch_timing=draw(st.sampled_from(["probe", "segment"])),
        schedule=draw(st.sampled_from(["async", "lockstep"])),
    )
    return config, leaves, draw(st.integers(1, 200)), draw(st.integers(0, 2**32))


TURNS = [CALL, "<search>a b</search>", f"{END}", f"words{END}", "</python>", "w" * 30, ""]


@settings(max_examples=250, deadline=None)
@given(worlds())
def test_exactly_n_leaves_come_out_under_every_combination(world):
    config, leaves, budget, seed = world
    chance = random.Random(seed)
    engine = ScriptedEngine(lambda context: chance.choice(TURNS), delays=chance)
    tools = ScriptedTools(lambda call: "r" * chance.randrange(40), delays=chance)

    async def score(leaf: Leaf) -> None:
        await pause(chance)
        leaf.reward = chance.choice([None, 0.0, 1.0])

    sizes = replace(SIZES, leaves=leaves, max_response_tokens=budget, seed=str(seed))
    grown = grow(build_rule(config), sizes, engine=engine, tools=tools, score=score)
    check_tree(grown, leaves, budget, config, tools)


class SeededEngine(ScriptedEngine):
    """Writes what the request's seed says."""

    async def generate(self, request):
        chance = random.Random(request.seed)
        return await ScriptedEngine(lambda context: chance.choice(TURNS), -chance.random(), self.delays).generate(
            request
        )


@settings(max_examples=100, deadline=None)
@given(worlds())
def test_the_same_seed_gives_the_same_tree_in_lockstep_under_every_combination(world):
    config, leaves, budget, seed = world
    config = replace(config, schedule="lockstep")
    sizes = replace(SIZES, leaves=leaves, max_response_tokens=budget, seed=str(seed))

    def picture(delays: int) -> list[tuple]:
        chance = random.Random(delays)

        async def score(leaf: Leaf) -> None:
            await pause(chance)
            leaf.reward = random.Random(text(leaf.token_ids)).choice([None, 0.0, 1.0])

        engine, tools = SeededEngine(None, delays=chance), ScriptedTools(lambda call: "2", delays=chance)
        grown = grow(build_rule(config), sizes, engine=engine, tools=tools, score=score)
        return [
            (leaf.number, leaf.parent, leaf.path, leaf.token_ids, leaf.segment_ids, leaf.decisions, leaf.stop_reason)
            for leaf in grown
        ]

    assert picture(1) == picture(2)
