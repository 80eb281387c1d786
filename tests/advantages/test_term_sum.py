"""The advantages of the family on two trees, worked out by hand in fractions, and their properties on random ones."""

import pytest
import torch
from tree_examples import GROUP_STD, HARD, NODE, PRESETS, P, batch_of, fractions, t5, t6, turns

from arpo_verl.advantages import TreeBatch
from arpo_verl.advantages.hard import hard
from arpo_verl.advantages.soft import soft
from arpo_verl.advantages.term_sum import term_sum
from arpo_verl.advantages.tree.nodes import TurnNodes
from arpo_verl.advantages.tree.terms import TreeTerms
from arpo_verl.algorithms.segments import segment_ids_from_forks

ON_T5 = {
    "GRPO centred": "3/5|3/5 ; -2/5|-2/5 ; -2/5|-2/5 ; 3/5|3/5 ; -2/5",
    "ARPO hard": "-1/15|3/5 ; -1/15|-2/5 ; -1/15|-2/5 ; 3/5|3/5 ; -2/5",
    "parent, leaf_mean (RTMC)": "-1/15|2/3 ; -1/15|-1/3 ; -1/15|-1/3 ; 3/5|0 ; -2/5",
    "parent, child_mean (SPO-tree)": "-1/9|2/3 ; -1/9|-1/3 ; -1/9|-1/3 ; 5/9|0 ; -4/9",
    "siblings, child_mean": "-1/6|1 ; -1/6|-1/2 ; -1/6|-1/2 ; 5/6|0 ; -2/3",
    "shrunk": "-1/6|5/6 ; -1/6|-1/2 ; -1/6|-1/2 ; 5/6|3/4 ; -2/3",
    "TreeRL": "-.0962250449|19/12 ; -.0962250449|-11/12 ; -.0962250449|-11/12 ; 3/2|3/4 ; -1",
    "Tree-GRPO (z)": "2.250146|2.250146 ; -1.307647|-1.307647 ; -1.307647|-1.307647 ; 1.095445|1.095445 ; -.730297",
    "TreePO group_size": "5/8|5/8 ; -3/8|-3/8 ; -3/8|-3/8 ; 3/5|3/5 ; -2/5",
    "TreePO average": "19/30|19/30 ; -11/30|-11/30 ; -11/30|-11/30 ; 3/5|3/5 ; -2/5",
    "GiGPO": "49/90|19/15 ; -41/90|-11/15 ; -41/90|-11/15 ; 79/90|3/5 ; -28/45",
    "inverse multiplicity": "25/81|25/81 ; -20/81|-20/81 ; -20/81|-20/81 ; 25/27|25/27 ; -20/27",
}
ON_T6 = {
    "ARPO hard": "-1/6|0|1/2 ; -1/6|0|-1/2 ; -1/6|-1/2 ; 1/2|1/2|1/2",
    "parent, leaf_mean (RTMC)": "-1/6|1/6|1/2 ; -1/6|1/6|-1/2 ; -1/6|-1/3 ; 1/2|0|0",
    "parent, child_mean (SPO-tree)": "-3/8|1/4|1/2 ; -3/8|1/4|-1/2 ; -3/8|-1/4 ; 3/8|0|0",
    "siblings, child_mean": "-3/4|1/2|1 ; -3/4|1/2|-1 ; -3/4|-1/2 ; 3/4|0|0",
    "shrunk": "-3/4|0|1/2 ; -3/4|0|-1 ; -3/4|-3/4 ; 3/4|2/3|2/3",
    "TreeRL": "-.256600|.157135|4/3 ; -.256600|.157135|-4/3 ; -.256600|-10/9 ; 4/3|2/3|2/3",
    "Tree-GRPO (z)": "2.020726|2.020726|2.020726 ; -1.443376|-1.443376|-1.443376 ; -1.443376|-1.443376 ; "
    ".866025|.866025|.866025",
    "TreePO group_size": "5/9|5/9|5/9 ; -4/9|-4/9|-4/9 ; -3/7|-3/7 ; 1/2|1/2|1/2",
    "TreePO average": "5/9|5/9|5/9 ; -4/9|-4/9|-4/9 ; -5/12|-5/12 ; 1/2|1/2|1/2",
    "GiGPO": "5/12|5/8|1 ; -7/12|-3/8|-1 ; -7/12|-5/8 ; 7/12|1/2|1/2",
    "inverse multiplicity": "3/16|3/16|3/16 ; -5/16|-5/16|-5/16 ; -5/8|-5/8 ; 3/4|3/4|3/4",
}
WITHOUT_LEAF_1 = {
    "GRPO centred": "1/2|1/2 ; 0|0 ; -1/2|-1/2 ; 1/2|1/2 ; -1/2",
    "ARPO hard": "0|1/2 ; 0|0 ; 0|-1/2 ; 1/2|1/2 ; -1/2",
    "siblings, child_mean": "0|1 ; 0|0 ; 0|-1 ; 3/4|0 ; -3/4",
    "TreeRL": "0|4/3 ; 0|0 ; 0|-4/3 ; 4/3|2/3 ; -4/3",
    "Tree-GRPO (z)": "1.573132|1.573132 ; 0|0 ; -1.573132|-1.573132 ; .866025|.866025 ; -.866025",
    "GiGPO": "1/2|1 ; 0|0 ; -1/2|-1 ; 3/4|1/2 ; -3/4",
}


def check(batch: TreeBatch, preset: str, expected: str) -> None:
    found = turns(term_sum(batch, **PRESETS[preset]), batch)
    assert [len(row) for row in found] == [len(row) for row in fractions(expected)]
    for row, numbers in zip(found, fractions(expected), strict=True):
        assert row == pytest.approx(numbers, abs=1e-6)


@pytest.mark.parametrize("preset", ON_T5)
def test_a_tree_with_a_threefold_fork(preset):
    check(t5(), preset, ON_T5[preset])


@pytest.mark.parametrize("preset", ON_T6)
def test_a_tree_with_nested_forks(preset):
    check(t6(), preset, ON_T6[preset])


@pytest.mark.parametrize("preset", WITHOUT_LEAF_1)
def test_an_excluded_leaf_is_as_if_it_were_not_there(preset):
    check(t5(excluded=[1]), preset, WITHOUT_LEAF_1[preset])


def test_values_of_nested_forks_depend_on_whether_leaves_or_children_are_averaged():
    by_leaves, by_children = TreeTerms(t6(), value="leaf_mean"), TreeTerms(t6(), value="child_mean")
    nodes = by_leaves.nodes
    a, p = nodes.run_node[0], nodes.run_node[1]
    assert [float(by_leaves.v[node]) for node in (a, p, nodes.turns)] == pytest.approx([1 / 3, 1 / 2, 1 / 2])
    assert [float(by_children.v[node]) for node in (a, p, nodes.turns)] == pytest.approx([1 / 4, 1 / 2, 5 / 8])


def test_soft_and_hard_are_terms():
    for batch in (t5(), t6(), t5(excluded=[1])):
        assert term_sum(batch, GROUP_STD) == pytest.approx(soft(batch))
        assert term_sum(batch, HARD, score="z") == pytest.approx(hard(batch))


def test_treepo_is_whitened_over_the_sampled_tokens():
    settings = {**PRESETS["TreePO group_size"], "whitened": True}
    found = [row[0] for row in turns(term_sum(t5(), **settings), t5())]
    assert found == pytest.approx([1.118615, -0.842792, -0.842792, 1.069580, -0.891827], abs=1e-6)


def test_the_entropies_of_the_children_weight_their_values():
    # H of the children of A is .2, .3, .5; those of other turns do not matter.
    log_probs = torch.zeros(5, 5)
    log_probs[0, 3:], log_probs[1, 3], log_probs[2, 3:] = -0.2, -0.3, -0.5
    batch = t5(log_probs=log_probs)
    expected = {"leaf_mean": -0.136083, "child_entropy": -(6**-0.5), "child_entropy_softmax": -0.225694}
    for value, number in expected.items():
        tree = TreeTerms(batch, score="z_pop", value=value, epsilon=0.0)
        assert float(tree.v[tree.nodes.run_node[0]]) == pytest.approx(number, abs=1e-6)
    prompt = TreeTerms(batch, score="z_pop", value="child_mean", epsilon=0.0)
    assert float(prompt.v[prompt.nodes.turns]) == pytest.approx(0.090722, abs=1e-6)


def test_the_intraclass_correlation_of_two_trees_by_hand():
    # T5 over roots: MSB 4/15, MSW 1/3, k0 7/5.
    assert TreeTerms(t5()).intraclass_correlation(is_clipped=False) == pytest.approx(-1 / 6)
    assert TreeTerms(t5()).intraclass_correlation() == 0.0
    assert TreeTerms(t6()).intraclass_correlation(is_clipped=False) == pytest.approx(0.0)


NONE = float("nan")


def test_turn_rewards_are_credited_to_their_own_turn():
    # MT-GRPO: outcome (1, 0, 0, 1), turn (1, 1, 0); the last leaf has no call, and is in no set of turns that have one.
    ids = [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, P, P]]
    mask = [[1, 0, 1]] * 3 + [[1, 0, 0]]
    rewards = torch.tensor([[1.0, NONE], [1.0, NONE], [0.0, NONE], [NONE, NONE]])
    batch = batch_of(ids, mask, [1.0, 0.0, 0.0, 1.0], turn_rewards=rewards)
    turn = {**NODE, "signal": "turn_reward", "baseline": "turn", "scale": "std"}
    found = turns(term_sum(batch, [*GROUP_STD, turn]), batch)
    # Turn rewards (1, 1, 0): z = (1/3, 1/3, -2/3) / sqrt(1/3); outcomes z = ±.866025.
    z = [0.577350, 0.577350, -1.154701]
    assert [row[0] for row in found] == pytest.approx(
        [0.866025 + z[0], -0.866025 + z[1], -0.866025 + z[2], 0.866025], abs=1e-5
    )
    assert [row[1] for row in found[:3]] == pytest.approx([0.866025, -0.866025, -0.866025], abs=1e-5)


def test_turn_rewards_of_all_leaves_are_the_published_example_of_mt_grpo():
    # The released code's epsilon; outcome (1, 0, 0, 1), turn (1, 1, 0, 0), all with a call.
    ids, mask = [[3 * row, 3 * row + 1, 3 * row + 2] for row in range(4)], [[1, 0, 1]] * 4
    rewards = torch.tensor([[1.0], [1.0], [0.0], [0.0]])
    batch = batch_of(ids, mask, [1.0, 0.0, 0.0, 1.0], turn_rewards=rewards)
    turn = {**NODE, "signal": "turn_reward", "baseline": "turn", "scale": "std"}
    found = turns(term_sum(batch, [*GROUP_STD, turn], epsilon=1e-4), batch)
    assert found == [pytest.approx(row, abs=1e-6) for row in ([1.731751, 0.865875], [0, -0.865875])] + [
        pytest.approx(row, abs=1e-6) for row in ([-1.731751, -0.865875], [0, 0.865875])
    ]


@pytest.mark.parametrize("reward", [-1.0, 0.0, 1.0])
def test_a_leaf_that_ends_with_a_result_is_valued_by_its_reward_and_not_by_the_results_gain(reward):
    ids, mask = [[0, 1, 2], [3, 4, 5]], [[1, 0, 1]] * 2
    gains = torch.tensor([[0.3, NONE], [0.1, 0.2]], dtype=torch.float64)
    batch = batch_of(ids, mask, [1.0, reward], info_gains=gains)
    term = {**NODE, "signal": "info_gain", "baseline": "none", "discount": 1.0, "ends_with_score": True}
    assert turns(term_sum(batch, [term]), batch) == [[1.3, 1.0], [pytest.approx(0.1 + reward), reward]]


def test_leaves_weigh_by_their_forks_in_discounted_values_and_in_trees_too():
    # V of A by children is 1/4: leaves 0 and 1 weigh half of leaf 2.
    found = turns(term_sum(t6(), [{**NODE, "baseline": "none", "discount": 1.0}], multiplicity="inverse"), t6())
    plain = turns(term_sum(t6(), [{**NODE, "baseline": "none"}], multiplicity="inverse"), t6())
    assert found == [pytest.approx(row) for row in plain]
    of_tree = term_sum(t6(), [{"baseline": "tree"}], multiplicity="inverse")
    assert float(of_tree[:3, 0].sum()) == pytest.approx(0)


def test_turns_of_trees_grown_elsewhere_are_whole_wherever_their_padding_begins():
    ids = segment_ids_from_forks(parents=[None] * 3, fork_tokens=[None] * 3, lengths=[5, 3, 4])
    batch = batch_of(ids.tolist(), [[1, 0, 1, 0, 1], [1, 0, 1, 0, 0], [1, 0, 1, 1, 0]], [1.0, 0.0, 1.0])
    assert TurnNodes.of(batch).turns == 7
    found = turns(term_sum(batch, [{**NODE, "baseline": "none", "discount": 0.5}]), batch)
    assert found == [[0.25, 0.5, 1], [0, 0], [0.5, 1]]


@pytest.mark.parametrize("ends_with_score", [False, True])
def test_gains_are_normalised_together_and_summed_over_what_follows(ends_with_score):
    # IGPO, two leaves of two turns: g = (.3, 1), (.1, 0), of which the second are the outcome.
    ids, mask = [[0, 1, 2], [3, 4, 5]], [[1, 0, 1]] * 2
    last = [NONE, NONE] if ends_with_score else [1.0, 0.0]
    gains = torch.tensor([[0.3, last[0]], [0.1, last[1]]], dtype=torch.float64)
    batch = batch_of(ids, mask, [1.0, 0.0], info_gains=gains)
    term = {**NODE, "signal": "info_gain", "baseline": "joint", "scale": "std", "discount": 1.0}
    found = turns(term_sum(batch, [{**term, "ends_with_score": ends_with_score}], epsilon=0.0), batch)
    assert found[0] == pytest.approx([1.330598, 1.441481], abs=1e-6)
    assert found[1] == pytest.approx([-1.330598, -0.776182], abs=1e-6)


A2TGPO = {**NODE, "signal": "info_gain", "baseline": "turn", "scale": "std", "discount": 1.0}
A2TGPO |= {"divides_by_sqrt_turns": True, "weight": 0.3}


def a2tgpo_batch() -> TreeBatch:
    """Return three leaves of two calls and an answer, which has no gain."""
    ids, mask = [[5 * row + one for one in range(5)] for row in range(3)], [[1, 0, 1, 0, 1]] * 3
    gains = torch.tensor([[0.3, 0.1, NONE], [0.1, 0.3, NONE], [0.2, -0.1, NONE]], dtype=torch.float64)
    return batch_of(ids, mask, [1.0, 0.0, 1.0], info_gains=gains)


def test_gains_that_follow_are_divided_by_the_root_of_their_number():
    batch = a2tgpo_batch()
    found = turns(term_sum(batch, [*GROUP_STD, A2TGPO], epsilon=0.0), batch)
    expected = [0.789482, 0.577350, 0.577350], [-1.154701, -0.854701, -1.154701], [0.365218, 0.277350, 0.577350]
    assert found == [pytest.approx(row, abs=1e-6) for row in expected]
    alone = turns(term_sum(batch, [{**A2TGPO, "weight": 1.0}], epsilon=0.0), batch)
    assert alone == [pytest.approx(row, abs=1e-6) for row in ([0.707107, 0, 0], [0, 1, 0], [-0.707107, -1, 0])]


def test_the_return_of_a_turn_is_the_discounted_outcome():
    # IPA: reward 1 at the end of two turns, without a baseline.
    batch = batch_of([[0, 1, 2]], [[1, 0, 1]], [1.0])
    found = turns(term_sum(batch, [{**NODE, "baseline": "none", "discount": 0.95}]), batch)
    assert found == [pytest.approx([0.95, 1.0])]


def test_a_gain_that_nobody_gave_is_an_error_that_says_who_gives_it():
    with pytest.raises(ValueError, match="info_gains=None; expected the gain of each turn"):
        term_sum(t5(), [A2TGPO])
