"""The metrics of branching on two trees worked out by hand, and against sums over all leaves on random ones."""

import itertools
import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_examples import T5_IDS, T5_MASK, T5_REWARDS, T6_IDS, T6_MASK, T6_REWARDS
from tree_records import records_of

from arpo_verl.diagnostics import ForkPoints, GrownTrees, branching_metrics
from arpo_verl.diagnostics.metrics import lift_of_forks, optimal_forks
from arpo_verl.rollout.tree import Decision


def grown(ids, mask, rewards, prompts=None, **more) -> GrownTrees:
    return GrownTrees.of(records_of(ids, mask, **more), prompts or ["p"] * len(ids), rewards)


def metrics_of(trees: GrownTrees) -> dict[str, float]:
    return branching_metrics(trees, ForkPoints.of(trees))


def test_the_tree_with_three_roots_by_hand():
    found = metrics_of(grown(T5_IDS, T5_MASK, T5_REWARDS))
    assert found == pytest.approx(
        {
            # Of 12 distinct tokens A's 2 have three leaves; B's answer alone follows a turn that did not fork.
            "tree/silent_fraction": 1 / 12,
            "tree/mean_multiplicity": (2 * 3 + 10) / 12,
            "tree/attenuation": (2 * 2 / 5 + 10 * 4 / 5) / 12,
            # MSB 4/15, MSW 1/3, k0 7/5.
            "tree/intraclass_correlation": -1 / 6,
            "tree/subtree_variance": 1 / 3,
            # A has 2 tokens, its answers 2, 1 and 2; nobody calls after the fork.
            "tree/cost_ratio/tokens": 2 / (5 / 3),
            "tree/optimal_forks": 5,
        }
    )


def test_the_nested_tree_by_hand():
    decisions = {
        0: [
            Decision(1, "coin", entropy=0.2, fork_token=2, fork_probability=1 / 2),
            Decision(1, "coin", entropy=0.4, fork_token=4, fork_probability=1 / 4),
        ],
        3: [Decision(0, "coin", entropy=0.3, fork_token=2, fork_probability=1 / 2)],
    }
    found = metrics_of(grown(T6_IDS, T6_MASK, T6_REWARDS, decisions=decisions))
    assert found == pytest.approx(
        {
            "tree/silent_fraction": 2 / 8,
            "tree/mean_multiplicity": (3 + 2 + 6) / 8,
            "tree/attenuation": 21 / 32,
            "tree/intraclass_correlation": 0,
            # At A, of which the first child has forked: (1/2 + 0) / 2 - ((1/2)² - 1/4) / 2 = 1/4; at P 1/2.
            "tree/subtree_variance": 3 / 8,
            "tree/subtree_variance/q1": 1 / 4,
            "tree/subtree_variance/q4": 1 / 2,
            # Over forks weighted by 2 and 4: 5/12.
            "tree/lift": (3 / 8) / (5 / 12),
            "tree/lift/coverage": 1,
            # 1 token and 1 call before A, in the mean 3/2 and 1/2 after it; 2 and 2 before P, 1 and 0 after it.
            "tree/cost_ratio/tokens": 3 / (5 / 2),
            "tree/cost_ratio/calls": 3 / (1 / 2),
            "tree/optimal_forks": 4,
        }
    )


def test_points_are_where_a_decision_was_made_or_leaves_have_forked():
    points = ForkPoints.of(
        grown(T5_IDS, T5_MASK, T5_REWARDS, decisions={3: [Decision(0, "coin", fork_token=3, features={"bias": 1.0})]})
    )
    by_children = sorted(zip(points.children.tolist(), points.variance.tolist(), strict=True))
    assert by_children == [(1, pytest.approx(math.nan, nan_ok=True)), (3, pytest.approx(1 / 3))]
    [outcome] = points.outcomes()
    assert (outcome.decision.features, outcome.variance) == ({"bias": 1.0}, None)
    assert (outcome.cost_before, outcome.cost_after) == ((2, 1), (1, 0))
    # The means below the roots are 1/3, 1 and 0, of r² as well: 4/9 - (16/9 - 10/9) / 6.
    assert outcome.total_variance == pytest.approx(4 / 9 - 1 / 9)


def test_places_are_the_leaves_that_forked_or_were_started_in_place_of_forks():
    decision = Decision(1, "coin", fork_token=3, features={})
    records = records_of(T5_IDS, T5_MASK, decisions={0: [replace(decision, forks=2)], 3: [replace(decision, forks=0)]})
    records = [replace(one, parent=0 if one.number in (1, 2) else None, is_top_up=one.number == 4) for one in records]
    points = ForkPoints.of(GrownTrees.of(records, ["p"] * 5, T5_REWARDS))
    assert [one.places for one in points.outcomes()] == [3 / 2, 3 / 2]


def test_a_leaf_that_is_left_out_or_has_no_reward_is_in_no_metric():
    without = [row for row in range(5) if row != 1]
    expected = metrics_of(
        grown([T5_IDS[row] for row in without], [T5_MASK[row] for row in without], [T5_REWARDS[row] for row in without])
    )
    assert metrics_of(grown(T5_IDS, T5_MASK, T5_REWARDS, excluded=[1])) == pytest.approx(expected)
    bad = [math.nan if row == 1 else reward for row, reward in enumerate(T5_REWARDS)]
    assert metrics_of(grown(T5_IDS, T5_MASK, bad)) == pytest.approx(expected)


def test_the_decision_of_a_leaf_that_is_left_out_still_belongs_to_the_fork():
    decision = Decision(2, "coin", fork_token=3, fork_probability=0.5)
    points = ForkPoints.of(grown(T5_IDS, T5_MASK, T5_REWARDS, excluded=[0], decisions={0: [decision]}))
    assert points.children.tolist() == [2]
    assert [one.decision for one in points.outcomes()] == [decision]


def test_what_can_not_be_told_is_absent():
    chains = metrics_of(grown([[0, 1, 2], [3, 4, 5]], [[1, 0, 1]] * 2, [1.0, 0.0]))
    assert set(chains) == {"tree/silent_fraction", "tree/mean_multiplicity", "tree/attenuation"}
    equal = metrics_of(grown(T5_IDS, T5_MASK, [1.0] * 5))
    assert "tree/intraclass_correlation" not in equal and equal["tree/subtree_variance"] == 0
    assert "tree/lift" not in equal
    assert metrics_of(grown(T5_IDS, T5_MASK, [math.nan] * 5)) == {}
    assert metrics_of(grown([], [], [])) == {}
    assert ForkPoints.of(grown([], [], [])).outcomes() == []


def test_a_fork_that_ended_before_it_sampled_is_a_path_of_its_own():
    # Leaf 1 forked after the result and got no token.
    points = ForkPoints.of(grown([[0, 1, 2], [0, 1, -1], [3, -1, -1]], [[1, 0, 1], [1, 0, 0], [1, 0, 0]], [1.0, 0, 0]))
    assert points.children.tolist() == [2]
    assert points.variance.tolist() == [pytest.approx(1 / 2)]
    assert (points.calls_before.tolist(), points.tokens_after.tolist()) == ([1], [1 / 2])


def test_several_decisions_at_one_place_are_nobodys():
    twice = [Decision(1, "coin", fork_token=3, fork_probability=0.5)]
    points = ForkPoints.of(grown(T5_IDS, T5_MASK, T5_REWARDS, decisions={0: twice, 1: twice}))
    assert points.decisions == [None] and points.outcomes() == []
    assert lift_of_forks(points) is None


@pytest.mark.parametrize(
    ("correlation", "ratio", "most", "forks"),
    # σ_b² 0.02 and σ_w² 0.3 make ρ = 1/16.
    [(1 / 16, 1.0, 16, math.sqrt(15)), (0.5, 1.0, 16, 1), (0.5, 4.0, 16, 2), (0.0, 1.0, 16, 16), (-0.2, 1, 8, 8),
     (1.0, 1.0, 16, 0), (0.001, 1.0, 16, 16), (1.1, 1.0, 16, 0)],
)  # fmt: skip
def test_the_best_number_of_forks_is_that_of_law_1(correlation, ratio, most, forks):
    assert optimal_forks(correlation, ratio, most) == pytest.approx(forks)


def test_points_that_could_not_fork_are_not_in_the_lift_and_the_coverage_says_so():
    decisions = {
        0: [Decision(2, "coin", fork_token=3, fork_probability=0.5)],
        3: [Decision(0, "coin", fork_token=3, fork_probability=0.0)],
    }
    found = metrics_of(grown(T5_IDS, T5_MASK, T5_REWARDS, decisions=decisions))
    assert (found["tree/lift"], found["tree/lift/coverage"]) == (1, 1 / 2)


def test_the_lift_of_a_coin_that_sees_the_variance_is_that_of_the_coin():
    """Half of the states have variance 1/4 and fork with probability 0.9, half have 0 and fork with 0.3."""
    chance = random.Random(0)
    ids, rewards, decisions, prompts = [], [], {}, []
    for tree in range(4000):
        has_variance = tree % 2 == 0
        probability = 0.9 if has_variance else 0.3
        forks = chance.random() < probability
        row = len(ids)
        decisions[row] = [Decision(int(forks), "coin", fork_token=2, fork_probability=probability)]
        for leaf in range(1 + forks):
            ids.append([0, 1, 2 + leaf])
            rewards.append(float(chance.random() < 0.5) if has_variance else 1.0)
            prompts.append(tree)
    trees = grown(ids, [[1, 0, 1]] * len(ids), rewards, prompts, decisions=decisions)
    # (0.9 / 4) / 1.2 where it forks, 1/8 everywhere. About 1800 variances of 0 or 1/2: a standard error of 3 %.
    assert lift_of_forks(ForkPoints.of(trees)) == pytest.approx((0.9 / 4 / 1.2) / (1 / 8), rel=0.1)


def random_rows(seed: int) -> tuple[list[list[int]], list[list[int]], list[float], list[int]]:
    """Return segment ids, masks, rewards and prompts of two random forests."""
    chance, ids = random.Random(seed), itertools.count()
    rows: list[tuple[list[int], list[int]]] = []

    def grow(prefix: list[int], mask: list[int], depth: int) -> None:
        turn = [next(ids)] * chance.randint(1, 3)
        if depth == 3 or chance.random() < 0.4:
            rows.append((prefix + turn, mask + [1] * len(turn)))
            return
        result = [next(ids)] * chance.randint(1, 2)
        for _ in range(chance.choice([1, 1, 2, 3])):
            grow(prefix + turn + result, mask + [1] * len(turn) + [0] * len(result), depth + 1)

    prompts = []
    for prompt in range(2):
        for _ in range(chance.randint(1, 3)):
            grow([], [], 1)
        prompts += [prompt] * (len(rows) - len(prompts))
    width = max(len(row) for row, _ in rows)
    return (
        [row + [-1] * (width - len(row)) for row, _ in rows],
        [mask + [0] * (width - len(mask)) for _, mask in rows],
        [chance.choice([0.0, 1.0, 0.25]) for _ in rows],
        prompts,
    )


@given(st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_shares_of_tokens_are_those_counted_token_by_token(seed):
    ids, mask, rewards, prompts = random_rows(seed)
    found = metrics_of(grown(ids, mask, rewards, prompts))
    silent, multiplicity, attenuation, seen = 0, 0, 0.0, set()
    for row, at in itertools.product(range(len(ids)), range(len(ids[0]))):
        key = (prompts[row], ids[row][at], at)
        if mask[row][at] == 0 or key in seen:
            continue
        seen.add(key)
        leaves = [other for other in range(len(ids)) if prompts[other] == prompts[row] and ids[other][at] == key[1]]
        begin = ids[row].index(key[1])
        before = [
            other
            for other in range(len(ids))
            if prompts[other] == prompts[row] and ids[other][:begin] == ids[row][:begin]
        ]
        silent += len({ids[other][begin] for other in before}) == 1
        multiplicity += len(leaves)
        attenuation += 1 - len(leaves) / prompts.count(prompts[row])
    assert found["tree/silent_fraction"] == pytest.approx(silent / len(seen))
    assert found["tree/mean_multiplicity"] == pytest.approx(multiplicity / len(seen))
    assert found["tree/attenuation"] == pytest.approx(attenuation / len(seen))


def below(rows: list[int], at: int, ids, mask, values: list[float]) -> tuple[float, int]:
    """Return the mean of a value below a way of some rows, each child once, and the number of children of the way."""
    ways: dict[int, list[int]] = {}
    for row in rows:
        ways.setdefault(ids[row][at] if at < len(ids[row]) else -1, []).append(row)
    if len(ways) == 1:
        [[way, members]] = ways.items()
        return (values[members[0]], 1) if way < 0 else below(members, at + 1, ids, mask, values)
    means = [below(members, at, ids, mask, values)[0] for members in ways.values()]
    return sum(means) / len(means), len(means)


@given(st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_what_is_below_a_fork_is_what_walking_down_from_it_finds(seed):
    ids, mask, rewards, prompts = random_rows(seed)
    points = ForkPoints.of(grown(ids, mask, rewards, prompts))
    expected = []
    seen = set()
    for row, at in itertools.product(range(len(ids)), range(1, len(ids[0]))):
        # A fork is where rows of a prompt that have all been the same so far part.
        members = [
            other for other in range(len(ids)) if prompts[other] == prompts[row] and ids[other][:at] == ids[row][:at]
        ]
        children = {ids[other][at] for other in members}
        key = (prompts[row], tuple(ids[row][:at]))
        if len(children) < 2 or key in seen or ids[row][at - 1] < 0:
            continue
        seen.add(key)
        parts = [[other for other in members if ids[other][at] == child] for child in children]
        mean, square = (
            [below(part, at, ids, mask, values)[0] for part in parts]
            for values in (rewards, [one**2 for one in rewards])
        )
        products = [one * other for one, other in itertools.permutations(mean, 2)]
        tokens = [below(part, at, ids, mask, [float(sum(one[at:])) for one in mask])[0] for part in parts]
        expected.append(
            (
                sum(mask[row][:at]),
                len(parts),
                sum(square) / len(parts) - sum(products) / len(products),
                sum(tokens) / len(parts),
            )
        )
    found = zip(
        points.tokens_before.tolist(),
        points.children.tolist(),
        points.variance.tolist(),
        points.tokens_after.tolist(),
        strict=True,
    )
    rounded = [
        sorted(tuple(round(number, 9) for number in one) for one in points_of) for points_of in (found, expected)
    ]
    assert rounded[0] == [pytest.approx(one, abs=1e-8) for one in rounded[1]]


@given(st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_order_other_names_and_shifted_rewards_change_nothing(seed):
    ids, mask, rewards, prompts = random_rows(seed)
    found = metrics_of(grown(ids, mask, rewards, prompts))
    order = list(range(len(ids)))
    random.Random(seed).shuffle(order)
    renamed = [[3 * one + 1 if one >= 0 else -1 for one in ids[row]] for row in order]
    again = metrics_of(
        grown(
            renamed, [mask[row] for row in order], [5 + rewards[row] for row in order], [-prompts[row] for row in order]
        )
    )
    assert again == pytest.approx(found, abs=1e-9)


def test_the_variance_at_a_fork_is_unbiased_where_children_fork_by_what_they_see():
    """Exactly, over all outcomes: a child that calls again forks the more often, the better its chances are."""
    # At the fork each child draws one of two states, which forks or not; reward 1 with probability q of the state.
    q, forks = (0.9, 0.2), (True, False)
    mean = sum(q) / 2
    total = 0.0
    for states in itertools.product(range(2), repeat=2):
        leaves = [state for state in states for _ in range(1 + forks[state])]
        for rewards in itertools.product((0.0, 1.0), repeat=len(leaves)):
            weight = 0.25 * math.prod(
                q[state] if reward else 1 - q[state] for state, reward in zip(leaves, rewards, strict=True)
            )
            ids, owner = [], [child for child, state in enumerate(states) for _ in range(1 + forks[state])]
            for leaf, child in enumerate(owner):
                ids.append([0, 1, 10 + child, 20 + child, 30 + leaf])
            points = ForkPoints.of(grown(ids, [[1, 0, 1, 0, 1]] * len(ids), list(rewards)))
            first = int(points.tokens_before.argmin())
            total += weight * float(points.variance[first])
    assert total == pytest.approx(mean * (1 - mean))
