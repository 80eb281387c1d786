"""The rules that fork in rounds: whom they choose, how many roots they start with, and what they refuse."""

import asyncio
import random
from collections import Counter
from typing import Any

import pytest
from fakes import END, Collector, ScriptedEngine, ScriptedTools, continued, ids, syntax, text

from arpo_verl.config import ArpoConfig
from arpo_verl.rollout.rule import Round
from arpo_verl.rollout.scheduler import PromptRollout
from arpo_verl.rollout.tree import Leaf, Segment, StopReason, Tree
from arpo_verl.rollout.turn_points import turn_points
from arpo_verl.rollout.turns import RolloutServices, RolloutSettings
from arpo_verl.rules import build_rule
from arpo_verl.rules.blocks.rounds import RoundRule

CALL = "<python>1+1</python>"


def chain(number: int, *surprisals: float, reward: float | None = None) -> Leaf:
    """Return a finished root with a turn of one token for each surprisal."""
    leaf = Leaf(number, str(number), f"s/{number}")
    for turn, surprisal in enumerate(surprisals):
        leaf.keep_snapshot()
        leaf.segments.append(Segment(1000 * number + 2 * turn, [1], True, [-surprisal]))
        leaf.segments.append(Segment(1000 * number + 2 * turn + 1, [2], False, [0.0]))
        leaf.tool_turns, leaf.tool_calls = leaf.tool_turns + 1, leaf.tool_calls + 1
    leaf.segments.pop()
    leaf.stop_reason, leaf.reward = StopReason.COMPLETED, reward
    return leaf


def of_chains(*chains: Leaf, size: int = 16, seed: int = 0) -> Round:
    tree = Tree(size, created=len(chains), planned_roots=len(chains), ended=list(chains), rounds=1)
    return Round(tree, turn_points(chains), 100, random.Random(seed))


def rule(name: str, initial_rollouts: int | None = None, /, **settings: Any) -> RoundRule:
    made = build_rule(ArpoConfig(rule=name, rule_kwargs=settings, initial_rollouts=initial_rollouts))
    assert isinstance(made, RoundRule)
    return made


def chosen(name: str, state: Round, **settings: Any) -> dict[tuple[int, int], int]:
    """Return the forks of each (leaf, turn) that got one."""
    plan = rule(name, **settings).plan_round(state)
    return {(point.leaf.number, point.snapshot.turn): one.forks for point, one in plan if one.forks}


TWO_CHAINS = ([0.9, 0.3, 0.8, 0.2], [0.1, 0.7, 0.6])
"""Surprisals of two roots' turns."""


def two_chains(**sizes: int) -> Round:
    return of_chains(chain(0, *TWO_CHAINS[0]), chain(1, *TWO_CHAINS[1]), **sizes)


def test_the_turns_of_the_highest_entropy_are_sampled_again_answers_included():
    # Of 0.8, 0.7, 0.6, 0.3, 0.2 without first turns; 0.9 and 0.1 with them. 0.6 is an answer.
    assert chosen("top_k", two_chains(), forks=3) == {(0, 2): 1, (1, 1): 1, (1, 2): 1}
    assert chosen("top_k", two_chains(), forks=3, first_turns=True) == {(0, 0): 1, (0, 2): 1, (1, 1): 1}


def test_siblings_take_from_a_turns_entropy():
    root = chain(0, 0.9, 0.3, 0.8)
    fork = root.fork(1, "0.1.0", root.snapshots[1])
    fork.keep_snapshot()
    fork.segments.append(Segment(77, [1], True, [-0.84]))
    fork.stop_reason = StopReason.COMPLETED
    state = of_chains(root, fork)
    assert chosen("top_k", state, forks=1) == {(1, 1): 1}
    # 0.84 less twice 0.05 is below 0.8 less once 0.05: the prompt's turns are AT²PO's example of α = 0.05.
    assert chosen("top_k", state, forks=1, penalty="siblings", siblings_weight=0.05) == {(0, 2): 1}


def test_forks_that_no_turn_is_left_for_go_to_the_best_turns_again():
    state = of_chains(chain(0, 0.1, 0.5, 0.9))
    assert chosen("top_k", state, forks=5) == {(0, 2): 3, (0, 1): 2}
    assert chosen("top_k", state, forks=5, forks_per_turn=2) == {(0, 2): 3, (0, 1): 2}


def test_the_forks_of_each_root_are_chosen_among_its_own_turns():
    # TreeRL's (M, N, L, T) = (2, 1, 1, 2): the best turn of each tree, twice.
    forks = chosen("top_k", two_chains(), forks=2, forks_per_turn=2, scope="root")
    assert forks == {(0, 2): 2, (1, 1): 2}


def test_a_place_counts_once_where_the_score_is_the_places():
    root = chain(0, 0.9, 0.3)
    fork = root.fork(1, "0.1.0", root.snapshots[1])
    fork.keep_snapshot()
    fork.segments.append(Segment(77, [1], True, [-0.8]))
    fork.stop_reason = StopReason.COMPLETED
    state = of_chains(root, fork)
    plan = rule("sample", forks=4).plan_round(state)
    assert [(point.leaf.number, decision.forks) for point, decision in plan] == [(0, 4)]
    assert len(rule("sample", forks=4, score="entropy").plan_round(state)) == 2


def test_draws_are_uniform_over_the_nodes_of_each_tree_with_a_constant_score():
    drawn: Counter[tuple[int, int]] = Counter()
    for seed in range(3000):
        forks = chosen("sample", two_chains(seed=seed), forks=2, scope="root", first_turns=True)
        assert sum(forks[key] for key in forks if key[0] == 0) == 2
        drawn.update(forks)
    # Tree-GRPO: n = 2 draws with replacement among four and three nodes. Five standard errors are at most 0.034.
    for leaf, turns in ((0, 4), (1, 3)):
        for turn in range(turns):
            assert drawn[leaf, turn] / 6000 == pytest.approx(1 / turns, abs=0.034)


def test_a_pivot_is_drawn_in_proportion_to_its_place_to_the_power():
    drawn: Counter[tuple[int, int]] = Counter()
    state = of_chains(chain(0, 1.0, 1.0, 1.0, 1.0, reward=0.0))
    made = rule("sample", forks=1, score="position", gate="failed", first_turns=True)
    for _ in range(10_000):
        drawn.update({p.snapshot.turn: d.forks for p, d in made.plan_round(state) if d.forks})
    # DEEP-GRPO with γ = 2 and flat success: 1/30, 4/30, 9/30, 16/30. Five standard errors are at most 0.025.
    for turn, share in enumerate((1 / 30, 4 / 30, 9 / 30, 16 / 30)):
        assert drawn[turn] / 10_000 == pytest.approx(share, abs=0.025)


def test_scores_below_0_are_drawn_only_where_no_other_is_above():
    state = of_chains(chain(0, 0.1, 0.2, 0.9), size=200)
    heavy = {"score": "entropy", "penalty": "siblings", "siblings_weight": 0.5, "first_turns": True}
    assert chosen("sample", state, forks=100, **heavy) == {(0, 2): 100}
    forks = chosen("sample", state, forks=100, **(heavy | {"siblings_weight": 2.0}))
    assert set(forks) == {(0, 0), (0, 1), (0, 2)}


def test_a_plan_names_every_turn_with_its_score_and_why_it_got_no_more():
    plan = rule("top_k", forks=1, gate=["tail", "failed"], tail_turns=2).plan_round(
        of_chains(chain(0, *TWO_CHAINS[0], reward=0.0), chain(1, *TWO_CHAINS[1], reward=1.0))
    )
    seen = [(p.leaf.number, p.snapshot.turn, d.score, d.forks, d.limit) for p, d in plan]
    assert seen == [
        (0, 1, 0.3, 0, "tail"), (0, 2, 0.8, 1, "forks_per_turn"), (0, 3, 0.2, 0, "rank"),
        (1, 1, 0.7, 0, "failed"), (1, 2, 0.6, 0, "failed"),
    ]  # fmt: skip
    drawn = rule("sample", forks=1).plan_round(of_chains(chain(0, 1.0, 1.0, 1.0)))
    assert sorted(d.limit for _, d in drawn) == ["draw", "forks_per_turn"]


def test_the_change_of_entropy_is_in_the_decision_where_the_score_looks_at_it():
    plan = rule("top_k", forks=1, score="entropy_change").plan_round(of_chains(chain(0, 1.0, 3.0)))
    # 2 nats more at one token, over ln 100; 0.5 + 0.2 of that.
    assert plan[0][1].entropy_change == pytest.approx(0.434294, abs=1e-6)
    assert plan[0][1].score == pytest.approx(0.5868589, abs=1e-6)


def test_a_rule_that_is_asked_for_more_rounds_than_it_has_gives_nothing():
    state = two_chains()
    state.tree.rounds = 2
    assert rule("top_k", rounds=1, forks=3).plan_round(state) == []


@pytest.mark.parametrize(
    ("settings", "roots", "size", "expected"),
    [
        ({"rounds": 2, "forks": 6}, None, 22, 10),  # AT²PO's (M0, L, K) = (10, 2, 6)
        ({"rounds": 2, "forks": 6}, 4, 22, 4),
        ({"rounds": 1, "forks": 4, "scope": "root"}, None, 30, 6),  # TreeRL's (6, 2, 1, 2)
        ({"rounds": 1, "forks": 2, "scope": "root"}, None, 6, 2),  # Tree-GRPO's two trees of three leaves
        ({"rounds": 2}, None, 16, 8),
        ({"rounds": 2}, 6, 16, 6),
        ({"rounds": 2, "forks": 30}, None, 16, 1),  # a prompt with fewer leaves than the run's n
    ],
)
def test_the_roots_are_what_the_rounds_leave(settings, roots, size, expected):
    made = rule("top_k", roots, **settings)
    assert made.new_roots(Tree(size)) == expected
    assert made.new_roots(Tree(size, planned_roots=expected)) == 0


@pytest.mark.parametrize(
    ("settings", "roots", "size", "message"),
    [
        ({"rounds": 2, "forks": 8}, None, 16, r"forks=8; expected at most n=16 .* rounds=2 times forks, not 17"),
        ({"rounds": 1, "forks": 8}, 9, 16, r"16 .*leaves of 9 from the prompt .*, not 17"),
        ({"rounds": 1, "forks": 2, "scope": "root"}, 6, 16, r"times forks for each root, not 18"),
    ],
)
def test_rounds_that_do_not_fit_into_n_are_refused(settings, roots, size, message):
    with pytest.raises(ValueError, match=message):
        rule("top_k", roots, **settings).check_leaves(size)
    rule("top_k", roots, **settings).check_leaves(size + 2)
    rule("top_k", roots, rounds=9).check_leaves(size)


def test_forks_without_a_number_are_spread_over_the_rounds_and_over_the_roots():
    def of_each_root(rounds: int, size: int) -> list[int]:
        forks = chosen("sample", two_chains(size=size), rounds=rounds, scope="root")
        return [sum(given for (leaf, _), given in forks.items() if leaf == root) for root in (0, 1)]

    # 8 places for one round, 4 a root; for two rounds half of them; of 7 places the last root gets one less.
    assert of_each_root(1, 10) == [4, 4]
    assert of_each_root(2, 10) == [2, 2]
    assert of_each_root(1, 9) == [4, 3]
    assert sum(chosen("sample", two_chains(size=10), rounds=3).values()) == 3


@pytest.mark.parametrize(
    ("settings", "begun", "expected"),
    [
        ({"rounds": 2, "forks": 3}, 0, 6), ({"rounds": 2, "forks": 3}, 1, 3), ({"rounds": 2, "forks": 3}, 2, 0),
        ({"rounds": 2, "forks": 3, "scope": "root"}, 1, 6), ({"rounds": 2, "forks": 9}, 0, 14),
        ({"rounds": 2}, 1, 14), ({"rounds": 2}, 2, 0),
    ],
)  # fmt: skip
def test_places_are_kept_for_the_forks_of_the_rounds_to_come(settings, begun, expected):
    state = two_chains()
    state.tree.rounds = begun
    assert rule("top_k", **settings).round_places(state.tree) == expected


def two_calls(context: str) -> str:
    return continued(context, CALL, CALL, f"so 2{END}")


def grow(config: ArpoConfig, leaves: int, write=two_calls, logprob: float = -1.0) -> list[Leaf]:
    collector = Collector()
    services = RolloutServices(ScriptedEngine(write, logprob), ScriptedTools(lambda call: "2"), syntax(), collector)
    sizes = RolloutSettings(ids("Q:"), leaves, 1000, vocabulary_size=100, seed="s")
    asyncio.run(PromptRollout(sizes, config, build_rule(config), services).run())
    return sorted(collector.leaves, key=lambda leaf: leaf.number)


@pytest.mark.parametrize("schedule", ["async", "lockstep"])
def test_two_rounds_of_six_forks_follow_ten_chains(schedule):
    settings = {"rounds": 2, "forks": 6, "penalty": "siblings"}
    leaves = grow(ArpoConfig(rule="top_k", rule_kwargs=settings, schedule=schedule), 22)
    assert sum(leaf.parent is None for leaf in leaves) == 10
    assert not any(leaf.is_top_up for leaf in leaves)
    decisions = [decision for leaf in leaves for decision in leaf.decisions]
    forks = Counter({number: sum(one.forks for one in decisions if one.round == number) for number in (1, 2)})
    assert forks == {1: 6, 2: 6}
    # Every turn after a first one is judged in each round: 20, then those of the six forks as well.
    assert Counter(one.round for one in decisions)[1] == 20


@pytest.mark.parametrize("schedule", ["async", "lockstep"])
def test_chains_without_a_call_have_no_turn_to_sample_again_but_their_first(schedule):
    def answer(context: str) -> str:
        return f"2{END}"

    settings: dict[str, Any] = {"rounds": 2, "forks": 3}
    config = ArpoConfig(rule="top_k", rule_kwargs=settings, schedule=schedule)
    leaves = grow(config, 8, answer)
    assert [(leaf.parent, leaf.is_top_up) for leaf in leaves] == [(None, False)] * 2 + [(None, True)] * 6
    config = ArpoConfig(rule="top_k", rule_kwargs=settings | {"first_turns": True}, schedule=schedule)
    assert [(leaf.parent, leaf.is_top_up) for leaf in grow(config, 8, answer)] == [(None, False)] * 8


@pytest.mark.parametrize("schedule", ["async", "lockstep"])
@pytest.mark.parametrize("name", ["bernoulli", "threshold", "top_k", "sample"])
def test_the_monitor_grows_alone_and_is_the_first_root(name, schedule):
    class Calming(ScriptedEngine):
        """Entropy 1.2 for a first turn, 0.8 after results."""

        async def generate(self, request):
            self.logprob = -0.8 if "</result>" in text(request.token_ids) else -1.2
            return await super().generate(request)

    config = ArpoConfig(
        rule=name,
        rule_kwargs={"roots": "entropy_monitor"},
        base_probability=1.0,
        probe_tokens=3,
        schedule=schedule,
    )
    engine, collector = Calming(two_calls), Collector()
    services = RolloutServices(engine, ScriptedTools(lambda call: "2"), syntax(), collector)
    sizes = RolloutSettings(ids("Q:"), 16, 1000, vocabulary_size=100, seed="s")
    asyncio.run(PromptRollout(sizes, config, build_rule(config), services).run())
    leaves = sorted(collector.leaves, key=lambda leaf: leaf.number)
    roots = [leaf.number for leaf in leaves if leaf.parent is None]
    # AEPO's example: 16 σ(0.5 · 0.4) = 8.797, 9 with its rounding.
    assert roots == list(range(9))
    assert not any(leaf.is_top_up for leaf in leaves)
    if name in ("bernoulli", "threshold"):
        assert {decision.limit for decision in leaves[0].decisions} == {"monitor"}
    # Nothing else is asked before the monitor has ended.
    answers = [position for position, request in enumerate(engine.requests) if text(request.token_ids) == "Q:"]
    assert answers[1] >= 3


def test_a_monitor_that_would_be_the_only_root_has_another_beside_it_where_it_cannot_be_forked():
    def tree(*logprobs: float) -> Tree:
        monitor = chain(0, *logprobs)
        return Tree(16, created=1, planned_roots=1, ended=[monitor])

    config = ArpoConfig(rule_kwargs={"roots": "entropy_monitor", "monitor_weight": 100.0})
    assert build_rule(config).new_roots(tree(0.1, 5.0)) == 1
    assert rule("top_k", roots="entropy_monitor", monitor_weight=100.0).new_roots(tree(0.1, 5.0)) == 0
    assert build_rule(config).new_roots(tree(5.0, 0.1)) == 15
    growing = Tree(16, created=1, planned_roots=1)
    assert build_rule(config).new_roots(growing) == 0
    assert build_rule(config).later_roots(growing) == 15


def test_a_rule_without_a_choice_of_its_own_says_what_is_missing():
    class Undecided(RoundRule):
        default_score, passed_over = "constant", "nothing"

    with pytest.raises(NotImplementedError, match="Undecided has no `choose`"):
        Undecided(ArpoConfig()).plan_round(two_chains())
