"""Penalties, gates, scores and numbers of roots, on numbers worked out by hand."""

import inspect
import math
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest

from arpo_verl.config import ArpoConfig
from arpo_verl.rollout.rule import ForkPoint, Round
from arpo_verl.rollout.tree import Decision, Leaf, Segment, StopReason, Tree
from arpo_verl.rollout.turn_points import ForkHistory, TurnPoint, turn_points
from arpo_verl.rules import build_rule
from arpo_verl.rules.blocks.gate import Gate
from arpo_verl.rules.blocks.online import OnlineRule
from arpo_verl.rules.blocks.penalty import Penalty
from arpo_verl.rules.blocks.roots import monitor_entropies, monitored_roots
from arpo_verl.rules.blocks.score import Score
from arpo_verl.rules.blocks.settings import number

LN100 = math.log(100)


def penalty(*names: str, siblings: float = 0.05, consecutive: float = 0.05, depth: float = 0.1) -> Penalty:
    return Penalty.of(list(names), siblings=siblings, consecutive=consecutive, depth=depth)


def history(siblings: int = 1, consecutive: int = 0, above: int = 0) -> ForkHistory:
    return ForkHistory(siblings, consecutive, above)


def coin(change: float, consecutive: int, *, places: int = 8, **settings: object) -> Decision:
    """Return what `bernoulli` decides after so many results in a row that were forked at, at a change over log V."""
    rule = build_rule(ArpoConfig(rule_kwargs={"penalty": "consecutive", **settings}))
    state = rule.root_state()
    for _ in range(consecutive):
        state.passed(True)
    leaf = Leaf(0, "0", "s/0", turn_entropies=[[1.0]], rule_state=state, tool_turns=consecutive + 1)
    point = ForkPoint(leaf, Tree(16, created=16 - places), [1.0 + change * LN100], 100, random.Random(0))
    return rule.decide(point)


@pytest.mark.parametrize(("consecutive", "expected"), [(0, 0.7), (2, 1 - 0.5 / 0.9 + 0.2)])
def test_consecutive_forks_have_the_probability_of_aepos_released_code(consecutive, expected):
    # b = 0.5, w = 0.2, ΔH = 1: 0.7 without a fork before, 0.644444 after two.
    decision = coin(1.0, consecutive)
    assert decision.branch_score == pytest.approx(expected)
    assert coin(1.0, 2).branch_score == pytest.approx(0.644444, abs=1e-6)


def released_share(base: float, weight: float, change: float, consecutive: int, draws: int) -> float:
    """How often the released code's line does not skip, written out."""
    generator = random.Random(1)
    kept = 0
    for _ in range(draws):
        probability = (generator.random() + weight * change) * max(0.0, 1.0 - 0.05 * consecutive)
        kept += not probability < base
    return kept / draws


@pytest.mark.parametrize("consecutive", [0, 1, 2, 8, 19, 20, 25])
@pytest.mark.parametrize("base", [0.0, 0.3, 0.5, 1.0])
def test_the_probability_is_the_share_of_draws_that_the_released_code_keeps(base, consecutive):
    ours = penalty("consecutive").probability(1 - base, history(consecutive=consecutive)) + 0.2
    share = released_share(base, 0.2, 1.0, consecutive, 20_000)
    # Five standard errors of a share of 20 000 are at most 0.018.
    assert min(max(ours, 0.0), 1.0) == pytest.approx(share, abs=0.018)


def test_a_row_of_forks_is_counted_along_a_leafs_own_path_and_a_result_without_one_ends_it():
    rule = build_rule(ArpoConfig(rule_kwargs={"penalty": "consecutive"}))
    state = rule.root_state()
    for is_forked in (True, True, False, True):
        state.passed(is_forked)
    assert state.history == history(consecutive=1, above=3)
    leaf = Leaf(0, "0", "s/0", rule_state=state)
    other = leaf.fork(1, "0.1.0")
    other.rule_state.passed(True)
    assert (other.rule_state.consecutive, state.consecutive) == (2, 1)


def test_a_fork_that_got_no_place_is_not_counted_as_one():
    rule = build_rule(ArpoConfig(base_probability=1.0))
    leaf = Leaf(0, "0", "s/0", turn_entropies=[[1.0]], rule_state=rule.root_state(), tool_turns=1)
    rule.decide(ForkPoint(leaf, Tree(16, created=16), [1.0], 100, random.Random(0)))
    assert leaf.rule_state.history == history()
    rule.decide(ForkPoint(leaf, Tree(16, created=15), [1.0], 100, random.Random(0)))
    assert leaf.rule_state.history == history(consecutive=1, above=1)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["none"], 2.0),
        (["siblings"], 2.0 - 0.05 * 3),
        (["consecutive"], 2.0 * 0.9),
        (["depth"], 2.0 - 0.1 * 4),
        (["siblings", "consecutive"], (2.0 - 0.15) * 0.9),
        (["consecutive", "siblings"], 2.0 * 0.9 - 0.15),
    ],
)
def test_penalties_take_from_a_score_one_after_the_other(names, expected):
    assert penalty(*names).score(2.0, history(siblings=3, consecutive=2, above=4)) == pytest.approx(expected)


def test_a_long_row_of_forks_leaves_nothing_of_a_score():
    assert penalty("consecutive").score(2.0, history(consecutive=30)) == 0.0


@pytest.mark.parametrize(("depth", "expected"), [(1, 0.1), (2, 0.3), (3, 0.9), (4, 0.9), (9, 0.9)])
@pytest.mark.parametrize("rule", ["bernoulli", "threshold"])
def test_each_depth_has_its_own_coin_and_the_last_one_holds_from_there(rule, depth, expected):
    made = build_rule(ArpoConfig(rule=rule, rule_kwargs={"depth_probabilities": [0.1, 0.3, 0.9]}))
    leaf = Leaf(0, "0", "s/0", turn_entropies=[[1.0]], rule_state=made.root_state(), tool_turns=depth)
    decision = made.decide(ForkPoint(leaf, Tree(16), [1.0], 100, random.Random(0)))
    assert decision.branch_score == pytest.approx(expected)


def test_top_ups_expect_the_mean_of_the_coins():
    rule = build_rule(ArpoConfig(branch_factor=3, rule_kwargs={"depth_probabilities": [0.1, 0.5]}))
    assert rule.forks_at_a_decision(Tree(16)) == pytest.approx(2 * 0.3)
    assert build_rule(ArpoConfig(branch_factor=3)).forks_at_a_decision(Tree(16)) == pytest.approx(2 * 0.5)


def test_coins_that_are_all_0_never_fork_and_one_above_is_enough():
    config = ArpoConfig(entropy_weight=0.0)
    never = build_rule(replace(config, rule_kwargs={"depth_probabilities": [0.0, 0.0]}))
    assert "base_probability=0 with entropy_weight=0" in never.never_forks()
    assert build_rule(replace(config, rule_kwargs={"depth_probabilities": [0.0, 0.1]})).never_forks() is None
    late = build_rule(replace(config, rule="threshold", rule_kwargs={"depth_probabilities": [0.0, 0.6]}))
    assert late.never_forks() is None


def ended(number: int, reward: float | None) -> Leaf:
    return Leaf(number, str(number), f"s/{number}", stop_reason=StopReason.COMPLETED, reward=reward)


@pytest.mark.parametrize(
    ("rewards", "closed"),
    [
        ([], "accuracy"),
        ([None, None], "accuracy"),
        ([0.0], None),
        ([1.0], "accuracy"),
        ([1.0, -1.0], None),
        ([1.0, 0.5, -1.0], "accuracy"),
        ([1.0, None, -1.0], None),
    ],
)
def test_a_prompt_is_forked_where_at_most_half_of_its_known_leaves_have_succeeded(rewards, closed):
    tree = Tree(16, ended=[ended(number, reward) for number, reward in enumerate(rewards)])
    assert Gate.of("accuracy", 0.0, [0.0, 0.5]).closed_for_prompt(tree) == closed
    assert Gate.of("always", 0.0, [0.0, 0.5]).closed_for_prompt(tree) is None


def test_a_coin_is_not_tossed_behind_a_closed_gate_and_the_decision_says_so():
    config = ArpoConfig(base_probability=1.0, rule_kwargs={"gate": "accuracy"})
    rule = build_rule(config)
    assert rule.needs_rewards and not build_rule(ArpoConfig()).needs_rewards

    def decided(*rewards: float) -> Decision:
        leaf = Leaf(9, "9", "s/9", turn_entropies=[[1.0]], rule_state=rule.root_state(), tool_turns=1)
        tree = Tree(16, ended=[ended(number, reward) for number, reward in enumerate(rewards)])
        return rule.decide(ForkPoint(leaf, tree, [1.0], 100, random.Random(0)))

    assert (decided(1.0).forks, decided(1.0).limit, decided(1.0).fork_probability) == (0, "accuracy", 0.0)
    assert (decided(1.0, 0.0).forks, decided(1.0, 0.0).limit) == (1, "branch_factor")


def grown(*logprobs: list[float], number: int = 0, reward: float | None = None, parent: Leaf | None = None) -> Leaf:
    """Return a finished leaf with a turn for each list, results between; a fork begins at its parent's second turn."""
    leaf = (
        Leaf(number, str(number), "s/0")
        if parent is None
        else parent.fork(number, f"0.1.{number}", parent.snapshots[1])
    )
    for of_turn in logprobs:
        leaf.keep_snapshot()
        identity = 100 * number + leaf.own_segments
        leaf.segments.append(Segment(identity, [1] * len(of_turn), True, of_turn))
        leaf.segments.append(Segment(identity + 50, [2], False, [0.0]))
        leaf.own_segments += 1
        leaf.tool_turns += 1
        leaf.tool_calls += 1
    leaf.segments.pop()  # no result after the answer
    leaf.stop_reason, leaf.reward = StopReason.COMPLETED, reward
    return leaf


def of_leaves(*leaves: Leaf) -> Round:
    tree = Tree(16, created=len(leaves), ended=list(leaves), rounds=1)
    return Round(tree, turn_points(leaves), 100, random.Random(0))


def scores(name: str, state: Round, power: float = 2.0, **knobs: object) -> list[float]:
    score = Score.of(name, ArpoConfig(**knobs), power)
    return [score(state, point).score for point in state.points]


def test_scores_of_a_chain_of_four_turns_by_hand():
    state = of_leaves(grown([-1.0, -2.0], [-0.5], [-3.0, -3.0, -3.0], [-1.0, -5.0]))
    assert scores("entropy", state) == [1.5, 0.5, 3.0, 3.0]
    assert scores("position", state) == pytest.approx([1 / 16, 4 / 16, 9 / 16, 1.0])
    assert scores("position", state, 1.0) == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert scores("constant", state) == [1.0] * 4
    # Two, one, three and two tokens: 0/8, 2/6, 3/5, 6/2.
    assert scores("cost_ratio", state) == pytest.approx([0.0, (1 / 3) ** 0.5, 0.6**0.5, 3**0.5])
    # First two tokens against those of the first turn, 1 and 2 nats, as far as both have them.
    changes = [0.0, -0.5 / LN100, 3 / LN100, 3 / LN100]
    expected = [0.5 + 0.2 * change for change in changes]
    assert scores("entropy_change", state, probe_tokens=2) == pytest.approx(expected)


def test_a_score_that_is_no_number_counts_as_0():
    assert scores("entropy", of_leaves(grown([-math.inf], [-1.0]))) == [0.0, 1.0]


def points_of(state: Round) -> dict[tuple[int, int], TurnPoint]:
    return {(point.leaf.number, point.snapshot.turn): point for point in state.points}


def nested() -> Round:
    """A root of three turns; a fork of its second turn with two more; a sibling of that fork's second turn; a chain."""
    root = grown([-1.0], [-1.0], [-1.0], reward=1.0)
    fork = grown([-1.0], [-1.0, -1.0], number=1, parent=root, reward=0.0)
    last = fork.fork(2, "0.1.1.2.0", fork.snapshots[1])
    last.keep_snapshot()
    last.segments.append(Segment(200, [1], True, [-1.0]))
    last.stop_reason, last.reward = StopReason.COMPLETED, None
    return of_leaves(root, fork, last, grown([-1.0], number=3, reward=0.0))


def test_a_turn_knows_its_siblings_the_forks_before_it_and_the_leaves_below():
    points = points_of(nested())
    assert list(points) == [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2), (3, 0)]
    assert points[0, 0].history == history(siblings=2)
    assert points[0, 1].history == points[1, 1].history == history(siblings=2)
    assert points[0, 2].history == history(siblings=1, consecutive=1, above=1)
    assert points[1, 2].history == points[2, 2].history == history(siblings=2, consecutive=1, above=1)
    assert points[3, 0].history == history(siblings=2)
    below = {key: [(one.leaf.number, one.turns) for one in point.below] for key, point in points.items()}
    assert below[0, 0] == [(0, 3), (1, 3), (2, 3)]
    assert below[1, 1] == [(1, 3), (2, 3)]
    assert below[2, 2] == [(2, 3)]
    assert [points[key].root for key in points] == [0, 0, 0, 0, 0, 0, 3]
    # From the fork's turn on: 1 + 2 tokens of the fork, 1 + 1 of its sibling's.
    assert (points[1, 1].tokens_before, points[1, 1].tokens_after) == (1, 2.5)


def test_an_unforked_result_ends_the_row_of_forks():
    root = grown([-1.0], [-1.0], [-1.0], [-1.0])
    points = points_of(of_leaves(root, grown([-1.0], number=1, parent=root)))
    assert [points[0, turn].history.consecutive for turn in range(4)] == [0, 0, 1, 0]
    assert [points[0, turn].history.above for turn in range(4)] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("gates", "closed"),
    [
        # Each leaf has three turns, the chain one: turns 1 and 2 are among the last two.
        (["tail"], {(0, 0): "tail"}),
        # Leaf 0 has succeeded, leaf 2 is not known; the turns that leaf 1 shares may be sampled again.
        (["failed"], {(0, 1): "failed", (0, 2): "failed", (2, 2): "failed"}),
        (["tail", "failed"], {(0, 0): "tail", (0, 1): "failed", (0, 2): "failed", (2, 2): "failed"}),
        (["always"], {}),
    ],
)
def test_gates_close_for_turns_no_leaf_of_which_may_pass(gates, closed):
    gate = Gate.of(gates, 0.0, (0.0, 1.0), 2)
    found = {key: gate.closed_for_turn(point) for key, point in points_of(nested()).items()}
    assert {key: reason for key, reason in found.items() if reason is not None} == closed


@pytest.mark.parametrize(("leaves", "root", "tool", "expected"), [(16, 1.2, 0.8, 9), (16, 0.8, 2.0, 6)])
def test_the_monitors_entropies_give_the_number_of_roots_of_aepos_released_code(leaves, root, tool, expected):
    assert monitored_roots(leaves, root - tool, 0.5) == expected


def test_the_number_of_roots_stays_between_1_and_all():
    assert [monitored_roots(16, difference, 0.5) for difference in (-1e9, 0.0, 1e9)] == [1, 9, 16]


def test_the_monitors_entropies_are_the_measured_ones_or_else_surprisals_of_first_tokens():
    leaf = grown([-1.0, -3.0, -9.0], [-2.0, -4.0], [-5.0])
    assert monitor_entropies(leaf, 2) == (2.0, 4.0)
    leaf.turn_entropies, leaf.decisions = [[0.5]], [Decision(0, "monitor", entropy=0.25)]
    assert monitor_entropies(leaf, 2) == (0.5, 0.25)
    # Without a tool result there is no difference to speak of.
    assert monitor_entropies(grown([-1.0]), 2) == (0.0, 0.0)


def test_a_rule_without_a_part_of_its_own_says_what_is_missing():
    rule = OnlineRule(ArpoConfig())
    leaf = Leaf(0, "0", "s/0", turn_entropies=[[1.0]], rule_state=rule.root_state(), tool_turns=1)
    with pytest.raises(NotImplementedError, match="OnlineRule has no `forks_at`"):
        rule.decide(ForkPoint(leaf, Tree(16), [1.0], 100, random.Random(0)))


ROUNDS_AND_COINS = [
    (
        {"penalty": "sibling"},
        r"arpo\.rule_kwargs\.penalty='sibling'; expected one of none, siblings, consecutive, depth",
    ),
    ({"penalty": []}, "a list of them"),
    ({"gate": "open"}, r"arpo\.rule_kwargs\.gate='open'; expected one of always, tail, failed, accuracy"),
    ({"gate": ["always", 3]}, "a list of them"),
    ({"accuracy_range": [0.5]}, "two shares from 0 to 1"),
    ({"accuracy_range": [0.9, 0.1]}, "the lower one first"),
    ({"accuracy_range": [0.0, 2.0]}, "expected a number from 0 to 1"),
    ({"consecutive_weight": -1}, r"consecutive_weight=-1; expected a number of at least 0"),
    ({"depth_weight": "much"}, "expected a number of at least 0"),
    ({"reward_threshold": None}, r"reward_threshold=None; expected a number: change it"),
    ({"roots": "monitor"}, r"arpo\.rule_kwargs\.roots='monitor'; expected one of fixed, entropy_monitor"),
    ({"monitor_weight": True}, "expected a number of at least 0"),
]


@pytest.mark.parametrize("rule", ["bernoulli", "threshold", "top_k", "sample"])
@pytest.mark.parametrize(("settings", "message"), ROUNDS_AND_COINS)
def test_settings_that_no_block_can_have_are_refused_with_what_it_can(rule, settings, message):
    with pytest.raises(ValueError, match=message):
        build_rule(ArpoConfig(rule=rule, rule_kwargs=settings))


@pytest.mark.parametrize(
    ("rule", "settings", "message"),
    [
        ("bernoulli", {"penalty": ["depth", "siblings"]}, r"penalty='siblings'; expected none, consecutive or depth"),
        ("bernoulli", {"gate": "tail"}, r"gate='tail'; expected always or accuracy with this rule, which forks before"),
        ("threshold", {"gate": ["accuracy", "failed"]}, r"gate='failed'; expected always or accuracy"),
        ("threshold", {"depth_probabilities": [0.5, 1.5]}, r"depth_probabilities=1\.5; expected a number from 0 to 1"),
        ("bernoulli", {"depth_probabilities": 0.5}, "expected a list of numbers from 0 to 1, or null"),
        ("bernoulli", {"depth_probabilities": []}, "expected a list of numbers from 0 to 1, or null"),
        (
            "top_k",
            {"score": "entropie"},
            r"score='entropie'; expected one of constant, cost_ratio, entropy, entropy_ch",
        ),
        ("top_k", {"rounds": 0}, r"rounds=0; expected a whole number of at least 1"),
        ("top_k", {"rounds": True}, "expected a whole number of at least 1"),
        ("sample", {"forks": 2.0}, r"forks=2\.0; expected a whole number of at least 1"),
        ("sample", {"scope": "tree"}, r"scope='tree'; expected one of prompt, root"),
        ("sample", {"first_turns": 1}, r"first_turns=1; expected true or false"),
        ("sample", {"position_power": -1}, r"position_power=-1; expected a number of at least 0"),
        ("top_k", {"siblings_weight": math.nan}, "expected a number of at least 0"),
        ("top_k", {"tail_turns": 0}, r"tail_turns=0; expected a whole number of at least 1"),
        ("reference", {"penalty": "none"}, "is not a known setting"),
    ],
)
def test_combinations_that_a_rule_can_not_have_are_refused_with_what_is_needed(rule, settings, message):
    with pytest.raises(ValueError, match=message):
        build_rule(ArpoConfig(rule=rule, rule_kwargs=settings))


def test_the_document_names_every_setting_with_its_default_and_the_rules_that_have_it():
    online, rounds = (inspect.signature(build_rule(ArpoConfig(rule=name)).__init__) for name in ("bernoulli", "top_k"))
    text = (Path(__file__).parents[2] / "docs" / "branching.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (rounds|online|both) \| ", text, re.MULTILINE)
    documented = {name: (default.strip("`"), where) for name, default, where in rows}
    known = {}
    for where, signature in (("online", online), ("rounds", rounds)):
        for name, parameter in list(signature.parameters.items())[1:]:
            default = parameter.default
            shown = (
                {None: "null", True: "true", False: "false"}.get(default) if isinstance(default, bool | None) else None
            )
            shown = shown or (str(list(default)) if isinstance(default, tuple) else str(default))
            known[name] = (shown, "both" if name in known else where)
    assert known.pop("score") == ("null", "rounds")
    assert documented.pop("score") == ("entropy`, `constant", "rounds")  # a rule's own
    assert documented == known


def test_a_number_within_its_range_is_taken_as_it_is():
    assert number("weight", 3, 0.0) == 3.0
    assert number("weight", -3.5) == -3.5
