"""The benchmark of branching rules: its gradient is the true one, and a rule that learns finds what there is."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

import pytest
from branching_rules import ADVANTAGE, WORLDS, has_one_entropy, measure, measured
from decision_world import ACTIONS, CALL_TOKENS, TURN_TOKENS, TURNS, DecisionWorld, Kind, Way, cost_of, squared_errors

from arpo_verl.config import ArpoConfig
from arpo_verl.rules import build_rule

CONFIG = ArpoConfig(schedule="lockstep", branch_timing="segment", probe_tokens=10, initial_rollouts=4)


def with_logit(kind: Kind, way: Way, action: int, change: float) -> Kind:
    """Return a kind of question with one logit of its policy changed."""

    def policy(at: Way) -> Sequence[float]:
        odds = [one * math.exp(change * (at == way and number == action)) for number, one in enumerate(kind.policy(at))]
        return [one / sum(odds) for one in odds]

    return replace(kind, policy=policy)


def expected_reward(kind: Kind) -> float:
    total = 0.0
    for way in kind.ways(TURNS):
        total += math.prod(kind.policy(way[:turn])[way[turn]] for turn in range(TURNS)) * kind.success(way)
    return total


@pytest.mark.parametrize("world", ["entropy tells", "the tool's status tells"])
def test_the_gradient_is_how_the_expected_reward_changes(world):
    kind, step = WORLDS[world][0], 1e-4
    for way, action in (((), 1), ((2,), 0), ((1, 3), 3), ((0, 2), 2)):
        up, down = (expected_reward(with_logit(kind, way, action, one)) for one in (step, -step))
        assert kind.gradient()[way][action] == pytest.approx((up - down) / (2 * step), abs=1e-7)


def test_what_leaves_share_costs_once():
    world = DecisionWorld(WORLDS["the last decision decides"])
    rule = build_rule(replace(CONFIG, rule="decision_world.SecondResult"))
    [leaves] = world.grow([0], rule, CONFIG, 8, "s")
    # Four roots of three turns and two calls, of which each forks before its last turn.
    assert cost_of(leaves) == 4 * (3 * TURN_TOKENS + 2 * CALL_TOKENS) + 4 * TURN_TOKENS


@pytest.mark.parametrize("rule", ["linear", "bernoulli"])
def test_errors_fall_as_leaves_grow_in_number(rule):
    """An unbiased estimate of four times as many leaves has a fourth of the error, whatever branches."""
    world = DecisionWorld(WORLDS["the first decision decides"])
    errors = []
    for leaves in (8, 32):
        config = replace(CONFIG, rule=rule, initial_rollouts=leaves // 2)
        trees = world.grow([0] * 60, build_rule(config), config, leaves, "s")
        errors.append(statistics.fmean(squared_errors(world, [0] * 60, trees, ADVANTAGE)))
    assert 3 < errors[0] / errors[1] < 5.5


def test_rules_that_look_at_the_entropy_are_the_random_one_where_it_is_the_same_everywhere():
    assert [world for world in WORLDS if not has_one_entropy(world)] == ["entropy tells", "entropy misleads"]
    seen = [measure("the tool's status tells", rule, 0, 1, 0) for rule in ("random", "entropy", "entropy, weight 1")]
    assert seen[0].error == seen[1].error == seen[2].error and seen[0].cost == seen[1].cost


def test_a_rule_that_learns_beats_the_random_one_where_the_tools_status_tells():
    """Deterministic: the seeds are fixed. docs/diagnostics.md has the table of all worlds, with intervals."""
    ratios, lifts = [], []
    for seed in range(3):
        learnt = measured("the tool's status tells", "expected variance", seed, 3, 4)
        by_chance = measured("the tool's status tells", "random", seed, 3, 4)
        ratios.append(by_chance.product / learnt.product)
        lifts.append(learnt.lift)
        assert by_chance.lift == pytest.approx(1)
    assert ACTIONS == 4 and statistics.fmean(lifts) > 1.25
    assert statistics.fmean(ratios) > 1.05
