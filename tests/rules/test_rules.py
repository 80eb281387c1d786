"""The branching rules on numbers worked out by hand, and what the scheduler makes of a rule of one's own."""

import asyncio
import random
from dataclasses import dataclass, replace

import pytest
from fakes import END, Collector, ScriptedEngine, ScriptedTools, continued, ids, syntax

from arpo_verl.config import ArpoConfig
from arpo_verl.named_parts import RULES
from arpo_verl.rollout.rule import BranchingRule, ForkPoint, Watch, expected_forks, possible_forks
from arpo_verl.rollout.scheduler import PromptRollout
from arpo_verl.rollout.tree import Decision, Leaf, Tree
from arpo_verl.rollout.turns import RolloutServices, RolloutSettings
from arpo_verl.rules import build_rule
from arpo_verl.rules.blocks.online import ForksOnPath

CALL = "<python>1+1</python>"
LN100 = 4.605170185988092


def point(change: float, generator: random.Random, *, places: int = 16) -> ForkPoint:
    """Return a fork point at which the entropy of one token has changed by `change` times log 100 nats."""
    leaf = Leaf(number=0, path="0", request_id="s/0", turn_entropies=[[1.0]], rule_state=ForksOnPath(), tool_turns=1)
    entropies = [1.0 + change * LN100]
    return ForkPoint(leaf, Tree(16, created=16 - places), entropies, vocabulary_size=100, generator=generator)


def forks(config: ArpoConfig, change: float, generator: random.Random, *, places: int = 16) -> int:
    return build_rule(config).decide(point(change, generator, places=places)).forks


def test_threshold_is_strict_and_all_or_nothing():
    config = ArpoConfig(rule="threshold", branch_factor=4, base_probability=0.5, entropy_weight=1.0)
    assert forks(config, 0.0, random.Random(0)) == 0
    assert forks(config, 0.0001, random.Random(0)) == 3


@pytest.mark.parametrize(("score", "expected"), [(-0.7, 0), (0.0, 0), (1.0, 4), (3.9, 4)])
def test_bernoulli_clips_the_probability(score, expected):
    config = ArpoConfig(branch_factor=5, base_probability=0.0, entropy_weight=1.0)
    assert forks(config, score, random.Random(0)) == expected


def test_bernoulli_candidates_draw_on_their_own():
    generator, rule = random.Random(0), build_rule(ArpoConfig(branch_factor=3, base_probability=0.3))
    counts = [rule.decide(point(0.0, generator)).forks for _ in range(20_000)]
    # Binomial(2, 0.3): 0.49, 0.42, 0.09; five standard errors of a share of 20 000 are at most 0.018.
    for number, share in enumerate((0.49, 0.42, 0.09)):
        assert counts.count(number) / len(counts) == pytest.approx(share, abs=0.018)


@pytest.mark.parametrize("rule", ["bernoulli", "threshold", "reference"])
def test_a_decision_says_what_was_seen_and_why_there_are_not_more_forks(rule):
    config = ArpoConfig(rule=rule, base_probability=0.5, entropy_weight=0.2)
    sure = build_rule(replace(config, base_probability=0.9)).decide(point(1.0, random.Random(0)))
    assert (sure.forks, sure.limit) == (1, "branch_factor")
    assert (sure.entropy_change, sure.branch_score) == (pytest.approx(1.0), pytest.approx(1.1))
    never = build_rule(replace(config, base_probability=0.0)).decide(point(-1.0, random.Random(0)))
    assert (never.forks, never.limit) == (0, "threshold" if rule == "threshold" else "coin")


def released_decision(change: float, alpha: float, beta: float, candidates: int, generator: random.Random) -> int:
    """The released code's lines on one active rollout, written out."""
    forks = 0
    for _ in range(candidates):
        probability = generator.random() - beta * change
        probability = max(0.0, min(1.0, probability))
        if probability > alpha:
            continue
        forks += 1
    return forks


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("change", [-9.0, -1.0, 0.0, 0.7, 9.0])
@pytest.mark.parametrize("beta", [0.0, 0.2, 1.0])
def test_reference_draws_what_the_released_code_draws(alpha, change, beta):
    for seed in range(50):
        for places in range(1, 5):
            config = ArpoConfig(rule="reference", branch_factor=4, base_probability=alpha, entropy_weight=beta)
            ours = forks(config, change, random.Random(seed), places=places)
            # The change goes through log 100 and back.
            exact = build_rule(config).decide(point(change, random.Random(seed), places=places)).entropy_change
            assert ours == released_decision(exact, alpha, beta, min(3, places), random.Random(seed))


@pytest.mark.parametrize(
    ("alpha", "change", "share"),
    # β is 0.2; the probability is clip(α + β ΔH, 0, 1), but where α is 1.
    [
        *[(0.5, 0.0, 0.5), (0.5, 1.0, 0.7), (0.5, -1.0, 0.3), (0.5, 9.0, 1), (0.5, -9.0, 0)],
        *[(0.0, 1.0, 0.2), (0.0, -1.0, 0), (1.0, 0.0, 1), (1.0, -1.0, 1), (1.0, -9.0, 1), (1.0, 9.0, 1)],
    ],
)
def test_reference_is_a_coin_but_where_alpha_is_1(alpha, change, share):
    generator = random.Random(0)
    rule = build_rule(ArpoConfig(rule="reference", branch_factor=3, base_probability=alpha))
    drawn = sum(rule.decide(point(change, generator)).forks for _ in range(10_000))
    # Five standard errors of a share of 20 000 are at most 0.018.
    assert drawn / 20_000 == pytest.approx(share, abs=0.018 if 0 < share < 1 else 0)


def test_the_reference_rule_measures_as_the_released_code_and_needs_a_server_that_can():
    assert build_rule(ArpoConfig(rule="reference")).entropy_measure().top_k == 10
    assert build_rule(ArpoConfig(rule="reference")).entropy_measure().is_truncated
    with pytest.raises(ValueError, match=r"arpo\.entropy_source='surprisal'; expected 'topk' with arpo\.rule=ref"):
        build_rule(ArpoConfig(rule="reference", entropy_source="surprisal"))


@pytest.mark.parametrize(
    ("decisions", "factor", "expected"),
    [(0, 2, 0), (1, 2, 1), (2, 2, 3), (3, 2, 7), (2, 3, 8), (1, 1, 0), (9, 1, 0), (50, 2, 16)],
)
def test_a_leaf_can_still_add_z_to_the_decisions_minus_one(decisions, factor, expected):
    assert possible_forks(decisions, factor, at_most=16) == expected


@pytest.mark.parametrize(
    ("decisions", "call_probability", "mean_forks", "is_at_fork_point", "expected"),
    [
        (0, 1.0, 1.0, False, 0.0),
        (1, 1.0, 0.5, False, 0.5),
        (1, 0.5, 0.5, False, 0.25),
        (1, 0.5, 0.5, True, 0.5),
        # A second result: 0.5 of 1.5 leaves reach it, and each brings a half.
        (2, 0.5, 0.5, True, 0.5 + 1.5 * 0.25),
        # Certain calls and forks: Z**decisions - 1.
        (3, 1.0, 1.0, False, 7.0),
        (50, 1.0, 1.0, False, 16.0),
    ],
)
def test_expected_forks_are_a_branching_process(decisions, call_probability, mean_forks, is_at_fork_point, expected):
    assert expected_forks(decisions, call_probability, mean_forks, is_at_fork_point, 16.0) == pytest.approx(expected)


def test_all_rules_are_found_by_the_names_of_their_files():
    assert RULES.names == ("bernoulli", "expected_variance", "linear", "reference", "sample", "threshold", "top_k")
    for name in RULES.names:
        assert type(build_rule(ArpoConfig(rule=name))).__name__ == name.title().replace("_", "")


def test_a_rule_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(
        ValueError, match=r"arpo\.rule='treshold'; expected one of bernoulli, expected_variance, linear, reference, "
    ):
        build_rule(ArpoConfig(rule="treshold"))
    with pytest.raises(ValueError, match=r"the module 'no_such_module' can't be imported"):
        build_rule(ArpoConfig(rule="no_such_module.MyRule"))
    with pytest.raises(ValueError, match="expected a class: correct the path"):
        build_rule(ArpoConfig(rule="random.random"))
    with pytest.raises(ValueError, match=r"expected a subclass of arpo_verl\.rules\.BranchingRule"):
        build_rule(ArpoConfig(rule="random.Random"))
    with pytest.raises(ValueError, match=r"arpo\.rule_kwargs\.depth is not a known setting; expected one of \[\]"):
        build_rule(ArpoConfig(rule="linear", rule_kwargs={"depth": 2}))
    with pytest.raises(ValueError, match=r"arpo\.rule_kwargs\.rounds is not a known setting; .*'depth_probabilities'"):
        build_rule(ArpoConfig(rule_kwargs={"rounds": 2}))


def grow(rule: BranchingRule, leaves: int, config: ArpoConfig, *turns: str) -> list[Leaf]:
    collector, engine = Collector(), ScriptedEngine(lambda context: continued(context, *turns))
    services = RolloutServices(engine, ScriptedTools(lambda call: "2"), syntax(), collector)
    size = RolloutSettings(ids("Q:"), leaves, 1000, vocabulary_size=100, seed="s")
    asyncio.run(PromptRollout(size, config, rule, services).run())
    return sorted(collector.leaves, key=lambda leaf: leaf.number)


@dataclass
class Depth:
    forks_above: int
    """Forks on the way from the root."""


class ThinningOut(BranchingRule):
    """Two forks at the first result of a path, one at the second, none at the third; nothing is measured."""

    def root_state(self) -> Depth:
        return Depth(0)

    def decide(self, point: ForkPoint) -> Decision:
        forks = max(0, 2 - point.leaf.rule_state.forks_above)
        point.leaf.rule_state.forks_above += 1
        point.tree.rule_state = (point.tree.rule_state or 0) + 1
        return Decision(forks, "depth")

    def possible_forks(self, tree: Tree, leaf: Leaf, decisions: int) -> int:
        return (5, 1, 0)[min(2, leaf.rule_state.forks_above)] if decisions else 0


@pytest.mark.parametrize("schedule", ["async", "lockstep"])
def test_a_leafs_state_is_copied_at_a_fork_and_goes_its_own_way_from_there(schedule):
    config = ArpoConfig(initial_rollouts=1, schedule=schedule)
    leaves = grow(ThinningOut(config), 6, config, CALL, CALL, CALL, f"so 2{END}")
    # The root forks twice, then each of the three has one more fork at its second result.
    # At the third result no leaf is missing, so nobody is asked.
    assert [leaf.rule_state.forks_above for leaf in leaves] == [2] * 6
    assert sorted(leaf.fork_token or 0 for leaf in leaves) == [0, 41, 41, 82, 82, 82]
    assert not any(leaf.is_top_up for leaf in leaves)


class LooksFirst(BranchingRule):
    """One root; when it has ended, one more for each of its calls, and forks for none."""

    def new_roots(self, tree: Tree) -> int:
        if not tree.planned_roots:
            return 1
        return tree.ended[0].tool_calls if tree.planned_roots == 1 and tree.ended else 0

    def later_roots(self, tree: Tree) -> int:
        return tree.missing if tree.planned_roots == 1 else 0

    def decide(self, point: ForkPoint) -> Decision:
        return Decision(0, "never")


@pytest.mark.parametrize("schedule", ["async", "lockstep"])
def test_a_rule_may_look_before_it_spends_and_the_scheduler_fills_the_rest(schedule):
    config = ArpoConfig(schedule=schedule, max_tool_calls=2)
    leaves = grow(LooksFirst(config), 5, config, CALL, CALL, f"so 2{END}")
    # One that is looked at, two that it asks for; two top-ups once its own are all there is.
    assert [leaf.is_top_up for leaf in leaves] == [False, False, False, True, True]
    assert all(leaf.parent is None for leaf in leaves)


class Greedy(BranchingRule):
    watches = frozenset({Watch.AFTER_RESULT})

    def decide(self, point: ForkPoint) -> Decision:
        return Decision(100, "none")


def test_more_forks_than_there_are_places_are_cut_and_the_decision_says_so():
    config = ArpoConfig(initial_rollouts=1, probe_tokens=3)
    leaves = grow(Greedy(config), 4, config, CALL, f"so 2{END}")
    assert len(leaves) == 4
    assert [(one.forks, one.limit) for one in leaves[0].decisions] == [(3, "no_leaf_missing")]
    assert leaves[0].decisions[0].entropy == 1.0


class Broken(BranchingRule):
    def decide(self, point: ForkPoint) -> Decision:
        return 1  # type: ignore[return-value]


def test_a_rule_that_returns_no_decision_is_named():
    with pytest.raises(TypeError, match=r"Broken\.decide returned 1; expected a Decision"):
        grow(Broken(ArpoConfig()), 4, ArpoConfig(), CALL, f"so 2{END}")


def test_a_rule_without_a_decision_of_its_own_says_what_is_missing():
    with pytest.raises(NotImplementedError, match="BranchingRule has no `decide`"):
        grow(BranchingRule(ArpoConfig()), 4, ArpoConfig(), CALL, f"so 2{END}")


@pytest.mark.parametrize("schedule", ["async", "lockstep"])
def test_expected_top_ups_start_before_they_are_certain(schedule):
    config = ArpoConfig(initial_rollouts=1, base_probability=0.0, entropy_weight=0.0, schedule=schedule)
    # One root that may call six times could bring all leaves; with α = 0 none is expected, and all start at once.
    patient = grow(build_rule(config), 4, config, CALL, f"so 2{END}")
    expecting = replace(config, top_ups="expected")
    eager = grow(build_rule(expecting), 4, expecting, CALL, f"so 2{END}")
    for leaves in (patient, eager):
        assert [leaf.is_top_up for leaf in leaves] == [False, True, True, True]
    assert [leaf.started - patient[0].started > 0 for leaf in patient] != [False] * 4
