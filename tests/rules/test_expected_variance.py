"""The rule that learns: what it knows at a fork point, what it fits, how often it forks, and that a seed is a tree."""

import asyncio
import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest
from fakes import END, ScriptedEngine, ScriptedTools, continued, ids, syntax
from hypothesis import given, settings
from hypothesis import strategies as st

from arpo_verl.config import ArpoConfig
from arpo_verl.fork_model.features import features_of
from arpo_verl.fork_model.ridge import MOST_FEATURES, RidgeSums, predicted
from arpo_verl.rollout.fork_outcome import ForkOutcome
from arpo_verl.rollout.rule import ForkPoint
from arpo_verl.rollout.scheduler import PromptRollout
from arpo_verl.rollout.tree import Decision, ExecutedCall, Leaf, Segment, Tree
from arpo_verl.rollout.turns import RolloutServices, RolloutSettings
from arpo_verl.rules import build_rule

CONFIG = ArpoConfig(rule="expected_variance")


def point(seed: int = 0, source: str = "", status: str = "ok", ended: tuple[tuple[str, float], ...] = ()) -> ForkPoint:
    """Return a fork point of root 0 after its first result, with finished leaves of the given paths and rewards."""
    calls = (ExecutedCall("search", status, 0.1, 0, None),)
    segments = [Segment(0, [1] * 6, True, [-0.5] * 6), Segment(1, [1] * 4, False, [0.0] * 4, calls=calls)]
    leaf = Leaf(0, "0", "s/0", segments=segments, turn_entropies=[[1.0]], tool_turns=1, tool_calls=1)
    tree = Tree(16, created=8)
    tree.ended = [Leaf(n + 1, path, f"s/{n}", reward=reward) for n, (path, reward) in enumerate(ended)]
    return ForkPoint(leaf, tree, [1.5, 2.5], 100, random.Random(seed), tokens_left=30, turns_left=3, source=source)


def outcome(variance: float | None, tokens: float = 100.0, probability: float = 0.5, **features: float) -> ForkOutcome:
    given = {"bias": 1.0, "share of the root": 1.0} | features
    return ForkOutcome(
        Decision(1, "coin", fork_probability=probability, features=given),
        variance,
        0.25,
        (6.0, 1.0),
        (tokens, 0.0),
        1.0,
    )


def test_what_is_known_at_a_fork_point():
    found = features_of(point(source="hotpot", ended=(("0.1.0", 1.0), ("1", 0.0), ("0.2.0", 0.0), ("3", math.nan))))
    assert found == pytest.approx(
        {
            "bias": 1,
            "turn": 1,
            "first turn": 1,
            "turns left": 3,
            "share of tokens left": 0.75,
            "entropy": 2,
            "entropy change": 0.5 / math.log(100),
            "source hotpot": 1,
            "tool search": 1,
            "status ok": 1,
            "prompt has rewards": 1,
            "prompt reward": 1 / 3,
            "prompt reward variance": 1 / 3,
            "root has rewards": 1,
            "root reward": 1 / 2,
            "root reward variance": 1 / 2,
        }
    )
    nothing = features_of(point())
    assert (nothing["prompt has rewards"], nothing["prompt reward"], nothing["root reward variance"]) == (0, 0, 0)


@pytest.mark.parametrize("branch_factor", [2, 4])
def test_before_anything_is_learnt_it_is_the_random_rule(branch_factor):
    config = replace(CONFIG, branch_factor=branch_factor, base_probability=0.4)
    random_rule = build_rule(replace(config, rule="bernoulli", entropy_weight=0.0))
    for seed in range(50):
        other = point(seed)
        other.leaf.rule_state = random_rule.root_state()
        ours, theirs = build_rule(config).decide(point(seed)), random_rule.decide(other)
        assert (ours.forks, ours.branch_score, ours.fork_probability) == (
            theirs.forks,
            pytest.approx(theirs.branch_score),
            theirs.fork_probability,
        )


def learnt(config: ArpoConfig, outcomes: list[ForkOutcome], steps: int = 1):
    rule, memory = build_rule(config), None
    for _ in range(steps):
        memory = rule.learn(memory, outcomes)
    return rule.with_memory(json.loads(json.dumps(memory)))


def score(rule, source: str) -> float:
    return rule.decide(point(source=source)).branch_score


def of_sources(
    variances: dict[str, float], total: float, tokens: dict[str, float] | None = None, places: float = 5.0
) -> list[ForkOutcome]:
    """Many outcomes at points as those of `point`, with a variance and a cost of each source; places by point."""
    return [
        ForkOutcome(
            Decision(
                1, "coin", fork_probability=0.5, features=features_of(point(source=source)) | {"share of the root": 1.0}
            ),
            variance,
            total,
            (6.0, 1.0),
            ((tokens or {}).get(source, 6.0), 0.0),
            places,
        )
        for source, variance in variances.items()
        for _ in range(4000)
    ]


# A point has 6 sampled tokens before it. With 6 after it, t / T is a half: a fork pays iff σ² is above V.
def test_forks_come_where_they_pay_and_a_share_of_the_decisions_stays_with_the_coins():
    rule = learnt(CONFIG, of_sources({"open": 0.25, "sure": 0.05}, total=0.2))
    assert [score(rule, "open"), score(rule, "sure")] == [pytest.approx(0.8 + 0.2 * 0.5), pytest.approx(0.2 * 0.5)]
    decisions = [rule.decide(point(seed, "sure")) for seed in range(2000)]
    # Five standard errors of a share of 2000 are 0.034.
    assert sum(one.forks for one in decisions) / 2000 == pytest.approx(0.1, abs=0.034)
    assert {one.limit for one in decisions} == {"does_not_pay", "coin", "branch_factor"}
    assert all(one.fork_probability == pytest.approx(0.1) for one in decisions)


def test_forks_come_where_what_follows_is_cheap():
    # σ² = V: it pays below 6 tokens after 6.
    rule = learnt(CONFIG, of_sources({"early": 0.2, "late": 0.2}, 0.2, {"early": 9.0, "late": 3.0}))
    assert [score(rule, "late"), score(rule, "early")] == [pytest.approx(0.9), pytest.approx(0.1)]


@pytest.mark.parametrize(
    ("tokens", "forks"), [(6.1, 0), (5.9, 1), (1.21, 1), (1.19, 2), (0.56, 2), (0.53, 3), (0.1, 3)]
)
def test_a_further_fork_pays_less(tokens, forks):
    """Two paths pay above 2 times t / T, three above 6 times and four above 12 times: T / t = (6 + t) / t."""
    rule = learnt(replace(CONFIG, branch_factor=4), of_sources({"a": 0.2}, 0.2, {"a": tokens}))
    assert score(rule, "a") == pytest.approx(0.8 * forks / 3 + 0.2 * 0.5)


def test_a_call_costs_as_many_tokens_as_it_is_said_to():
    # 6 tokens and one call before: 106 of 4 + 106 with the call at 100 tokens, and 206 after with two calls.
    outcomes = [replace(one, cost_after=(4.0, 2.0)) for one in of_sources({"a": 0.2}, 0.2)]
    assert score(learnt(CONFIG, outcomes), "a") == pytest.approx(0.9)
    assert score(learnt(replace(CONFIG, rule_kwargs={"call_tokens": 100.0}), outcomes), "a") == pytest.approx(0.1)


def test_below_other_forks_a_fork_gains_less():
    # t / T is 0.1 / 6.1: of 1/2 a path with half of its root gains a fourth less that, one with a sixth less than 0.
    rule = learnt(replace(CONFIG, rule_kwargs={"random_share": 1e-9}), of_sources({"a": 0.2}, 0.2, {"a": 0.1}))
    at = point(source="a")
    scores, shares = [], []
    for places in (16, 16, 0):
        at.tree.created = 16 - places
        scores.append(rule.decide(at).branch_score)
        shares.append(at.leaf.rule_state)
    assert scores == [pytest.approx(1)] * 3 and shares == [1 / 2, 1 / 4, 1 / 4]
    at.leaf.rule_state = 1 / 6
    assert rule.decide(at).branch_score == pytest.approx(0, abs=1e-6)
    assert at.leaf.fork(1, "0.1.0").rule_state == 1 / 6


def test_where_more_forks_pay_than_there_are_places_those_that_gain_most_have_them():
    # t / T is 1/4. Gains: 0.25 / 2 / 0.2 - 1/4 = 0.375, 1/4, and less than 0. Coins take 0.1 of each point's places.
    given = {"most": 0.25, "some": 0.2, "sure": 0.09}
    tokens = dict.fromkeys(given, 2.0)
    plenty = learnt(CONFIG, of_sources(given, 0.2, tokens, places=0.7))
    assert [score(plenty, one) for one in given] == [pytest.approx(0.9), pytest.approx(0.9), pytest.approx(0.1)]
    few = learnt(CONFIG, of_sources(given, 0.2, tokens, places=0.3))
    assert [score(few, one) for one in given] == [pytest.approx(0.9), pytest.approx(0.1), pytest.approx(0.1)]
    assert few._memory["price"] == pytest.approx(0.375, abs=0.01)


def test_where_many_gain_the_same_all_of_them_fork():
    assert score(learnt(CONFIG, of_sources({"a": 0.2}, 0.2, {"a": 2.0}, places=0.3)), "a") == pytest.approx(0.9)


def test_without_any_variance_the_coins_decide():
    assert score(learnt(CONFIG, of_sources({"a": 0.0}, 0.0)), "a") == 0.5


def test_points_that_fork_seldom_are_heard_as_often():
    """One in ten of the seldom kind is seen; weighted by its probability it counts as much as the other in the mean."""
    often = [outcome(0.1, probability=1.0) for _ in range(1000)]
    seldom = [outcome(0.3, probability=0.1) for _ in range(100)]
    memory = build_rule(replace(CONFIG, rule_kwargs={"ridge": 1e-9})).learn(None, often + seldom)
    assert memory["variance"]["bias"] == pytest.approx(0.2)


def test_older_steps_count_less():
    rule = build_rule(replace(CONFIG, rule_kwargs={"steps": 4}))
    memory = None
    for variance in (0.1, 0.3):
        memory = rule.learn(memory, [outcome(variance) for _ in range(10)])
    assert memory["variance"]["bias"] == pytest.approx((0.75 * 0.1 + 0.3) / 1.75)


def test_a_step_without_forks_leaves_what_is_known():
    rule = build_rule(CONFIG)
    assert rule.learn(None, []) is None and rule.learn(None, [outcome(None)]) is None
    memory = rule.learn(None, [outcome(0.1)])
    assert rule.learn(memory, []) == memory
    assert rule.learn(memory, [ForkOutcome(Decision(1, "other rule"), 0.2, 0.2, (1.0, 0.0), (1.0, 0.0), 1.0)]) == memory


def test_what_is_learnt_is_a_prompts_and_not_the_objects():
    rule = build_rule(CONFIG)
    outcomes = of_sources({"open": 0.25, "sure": 0.05}, 0.2)
    informed = rule.with_memory(rule.learn(None, outcomes))
    assert score(rule, "open") == 0.5 != score(informed, "open")


@pytest.mark.parametrize(
    ("name", "value"), [("random_share", 0.0), ("random_share", 1.1), ("steps", 0), ("ridge", 0.0), ("call_tokens", -1)]
)
def test_a_setting_outside_its_range_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"arpo\.rule_kwargs\.{name}={value}; expected a number"):
        build_rule(replace(CONFIG, rule_kwargs={name: value}))


def test_a_mean_of_no_forks_never_forks():
    assert build_rule(replace(CONFIG, base_probability=0.0)).never_forks() is not None
    assert build_rule(CONFIG).never_forks() is None


def test_ridge_is_least_squares_with_a_penalty_on_features_of_variance_1():
    # y = 1 + 2 x at x = 0 and 2, four examples: the variance of x is 1; with strength 4 the slope is 2 · 4 / (4 + 4).
    examples = [({"bias": 1.0, "x": x}, 1 + 2 * x, 1.0) for x in (0.0, 0.0, 2.0, 2.0)]
    sums = RidgeSums.none().after(examples, kept=1.0)
    assert sums.fit(1e-9) == pytest.approx({"bias": 1, "x": 2})
    half = sums.fit(4.0)
    assert half == pytest.approx({"bias": 2, "x": 1})
    assert predicted(half, [{"bias": 1.0, "x": 1.0, "unknown": 5.0}]).tolist() == [pytest.approx(3)]


@pytest.mark.parametrize("constant", [1e-3, 1.0, 89.0, 127.0, 255.0, 1e4, 1e6])
def test_a_feature_that_does_not_vary_says_nothing_whatever_its_size(constant):
    sums = RidgeSums.none()
    for step in range(40):
        generator = np.random.default_rng(step)
        examples = [({"bias": 1.0, "x": x, "c": constant}, 1 + x, 1.0) for x in generator.normal(size=20)]
        sums = sums.after(examples, kept=0.95)
        found = sums.fit(1e-3)
        assert predicted(found, [{"bias": 1.0, "x": 2.0, "c": constant}])[0] == pytest.approx(3, abs=0.01)


@given(st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_ridge_agrees_with_the_normal_equations_of_standardised_features(seed):
    generator = np.random.default_rng(seed)
    x, y, weight = generator.normal(size=(30, 3)), generator.normal(size=30), generator.uniform(0.1, 2, 30)
    examples = [
        ({"bias": 1.0} | dict(zip("abc", row, strict=True)), t, w)
        for row, t, w in zip(x.tolist(), y, weight, strict=True)
    ]
    found = RidgeSums.none().after(examples, kept=1.0).fit(3.0)
    mean = (weight[:, None] * x).sum(0) / weight.sum()
    deviation = np.sqrt((weight[:, None] * (x - mean) ** 2).sum(0) / weight.sum())
    z = (x - mean) / deviation
    centred = y - (weight * y).sum() / weight.sum()
    slopes = np.linalg.solve((z * weight[:, None]).T @ z + 3.0 * np.eye(3), (z * weight[:, None]).T @ centred)
    assert [found[name] for name in "abc"] == pytest.approx(list(slopes / deviation))


def test_names_come_when_they_are_first_seen_and_no_more_than_there_is_room_for():
    sums = RidgeSums.none().after([({"bias": 1.0, "a": 1.0}, 1.0, 1.0)], kept=1.0)
    later = sums.after([({"bias": 1.0, "b": 1.0}, 3.0, 1.0)], kept=0.5)
    assert later.names == ("bias", "a", "b")
    assert np.diag(later.products).tolist() == [1.5, 0.5, 1.0] and later.targets.tolist() == [3.5, 0.5, 3.0]
    many = [({"bias": 1.0, f"source {number}": 1.0}, 1.0, 1.0) for number in range(100)]
    assert len(later.after(many, kept=1.0).names) == MOST_FEATURES
    assert RidgeSums.from_memory(json.loads(json.dumps(later.as_memory()))).fit(1.0) == later.fit(1.0)
    assert RidgeSums.none().fit(1.0) == {}


def grown(config: ArpoConfig, memory, seed: str) -> list[tuple[str, int]]:
    """Grow a tree whose leaves call twice and have rewards by their number; return paths and lengths."""
    turns = ("<search>a</search>", "<search>b</search>", f"done{END}")
    leaves: list[Leaf] = []

    async def on_leaf(leaf: Leaf) -> None:
        leaf.reward = float(leaf.number % 2)
        leaves.append(leaf)

    engine = ScriptedEngine(lambda context: continued(context, *turns), delays=random.Random(seed))
    services = RolloutServices(engine, ScriptedTools(lambda call: "found"), syntax(), on_leaf)
    rule = build_rule(config) if memory is None else build_rule(config).with_memory(memory)
    settings_of = RolloutSettings(ids("Q:"), 16, 400, 100, "s", source="hotpot")
    asyncio.run(PromptRollout(settings_of, config, rule, services).run())
    features = {name for leaf in leaves for one in leaf.decisions for name in one.features or {}}
    assert {"source hotpot", "tool search", "status ok", "turns left"} <= features
    return sorted((leaf.path, leaf.length) for leaf in leaves)


@pytest.mark.parametrize("schedule", ["lockstep", "async"])
def test_a_rule_that_has_learnt_grows_whole_trees(schedule):
    config = replace(CONFIG, schedule=schedule, entropy_source="surprisal", initial_rollouts=4)
    memory = build_rule(config).learn(None, of_sources({"hotpot": 0.2, "other": 0.1}, 0.2))
    trees = [grown(config, memory, str(seed)) for seed in range(3)]
    assert [len(tree) for tree in trees] == [16] * 3
    if schedule == "lockstep":
        assert trees[0] == trees[1] == trees[2]
        assert trees[0] != grown(config, None, "0")
