"""What holds of every sum of terms, on random trees: centring, copies, permutations, ties, exclusions, no branching."""

import itertools
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_trees import random_batch, rows_of
from tree_examples import GROUP_STD, LEAF, NODE, PRESETS

from arpo_verl.advantages import TreeBatch
from arpo_verl.advantages.soft import soft
from arpo_verl.advantages.term_sum import term_sum
from arpo_verl.advantages.tree.terms import TreeTerms

SEEDS = st.integers(0, 2**32)
NODE_PRESETS = ["ARPO hard", "parent, leaf_mean (RTMC)", "parent, child_mean (SPO-tree)", "siblings, child_mean"]
# With a discount, equal rewards at ends of different depth are different values of turns.
CENTRED = [name for name in PRESETS if name != "GiGPO"]


@given(SEEDS, st.sampled_from(CENTRED))
@settings(max_examples=150)
def test_equal_rewards_give_no_advantage_but_to_the_only_leaf_of_a_prompt(seed, preset):
    batch = random_batch(seed, rewards=(0.7,))
    found = term_sum(batch, **PRESETS[preset])
    sizes = torch.bincount(batch.prompt)[batch.prompt]
    assert (found[sizes > 1] == 0).all()


@given(SEEDS, st.sampled_from(NODE_PRESETS))
@settings(max_examples=100)
def test_all_copies_of_a_shared_token_have_one_value_in_node_terms(seed, preset):
    batch = random_batch(seed)
    found = term_sum(batch, **PRESETS[preset])
    for one, other in itertools.combinations(range(len(found)), 2):
        if batch.prompt[one] == batch.prompt[other]:
            shared = (batch.segment_ids[one] == batch.segment_ids[other]) & (batch.segment_ids[one] >= 0)
            assert torch.equal(found[one][shared], found[other][shared])


@given(SEEDS, st.sampled_from(list(PRESETS)))
@settings(max_examples=100)
def test_the_order_of_rows_and_the_numbers_of_segments_do_not_matter(seed, preset):
    batch = random_batch(seed)
    settings_of = PRESETS[preset]
    found = term_sum(batch, **settings_of)
    order = list(range(len(found)))
    random.Random(seed).shuffle(order)
    shuffled = rows_of(batch, order)
    renamed = torch.where(shuffled.segment_ids >= 0, 7 * shuffled.segment_ids + 3, -1)
    object.__setattr__(shuffled, "segment_ids", renamed)
    assert term_sum(shuffled, **settings_of) == pytest.approx(found[order], abs=1e-9)


@given(SEEDS, st.sampled_from([name for name in PRESETS if name != "shrunk"]))
@settings(max_examples=100)
def test_an_excluded_leaf_is_as_if_it_did_not_exist(seed, preset):
    batch = random_batch(seed)
    chance = random.Random(seed)
    excluded = chance.randrange(len(batch.prompt))
    of_its_prompt = int((batch.prompt == batch.prompt[excluded]).sum())
    kept = [row for row in range(len(batch.prompt)) if row != excluded]
    object.__setattr__(batch, "is_excluded", torch.arange(len(batch.prompt)) == excluded)
    found = term_sum(batch, **PRESETS[preset])
    assert (found[excluded] == 0).all()
    if of_its_prompt == 2:
        return  # a prompt's only leaf keeps its reward, the only one left of two has nothing
    assert found[kept] == pytest.approx(term_sum(rows_of(batch, kept), **PRESETS[preset]), abs=1e-9)


@given(SEEDS)
@settings(max_examples=100)
def test_parent_differences_of_a_leaf_add_up_to_its_score_less_the_prompts_value(seed):
    batch = random_batch(seed)
    for value in ("leaf_mean", "child_mean"):
        tree = TreeTerms(batch, value=value)
        nodes = tree.nodes
        differences = tree.of_nodes(tree.v, "parent", "none")[nodes.run_node]
        sums = torch.zeros(len(batch.prompt), dtype=torch.float64).index_add(0, nodes.run_row, differences)
        assert sums == pytest.approx(tree.x - tree.v[nodes.turns + batch.prompt], abs=1e-9)


@given(SEEDS)
@settings(max_examples=100)
def test_group_terms_add_up_to_nothing_over_the_leaves(seed):
    batch = random_batch(seed)
    for multiplicity in ("copies", "inverse"):
        tree = TreeTerms(batch, multiplicity=multiplicity)
        weighted = tree.of_leaves("group", "std") * tree.weights
        sizes = torch.bincount(batch.prompt)
        sums = torch.zeros(len(sizes), dtype=torch.float64).index_add(0, batch.prompt, weighted)
        assert sums[sizes > 1] == pytest.approx(torch.zeros(int((sizes > 1).sum()), dtype=torch.float64), abs=1e-9)


@given(SEEDS)
@settings(max_examples=60)
def test_without_forks_terms_of_trees_are_grpo(seed):
    chance = random.Random(seed)
    rows = chance.randint(2, 6)
    ids = torch.arange(3 * rows).reshape(rows, 3)
    mask = torch.tensor([[1, 0, 1]] * rows)
    scores = torch.zeros(rows, 3, dtype=torch.float64)
    scores[:, 0] = torch.tensor([chance.choice([0.0, 1.0]) for _ in range(rows)])
    batch = TreeBatch(scores, mask, torch.zeros(rows, dtype=torch.long), torch.zeros(rows, dtype=torch.bool), ids)
    grpo = soft(batch)
    hard_z = {"terms": [{**NODE, "baseline": "none"}], "score": "z"}
    tree_grpo = {"terms": [*GROUP_STD, {**LEAF, "baseline": "tree", "scale": "std"}]}
    for preset in (hard_z, tree_grpo, {"terms": GROUP_STD, "multiplicity": "inverse"}):
        assert term_sum(batch, **preset) == pytest.approx(grpo, abs=1e-9)


@pytest.mark.parametrize(("leaves", "sharing"), [(4, 2), (4, 3), (4, 4)])
def test_a_shared_token_learns_m_minus_d_over_m_of_the_truth(leaves, sharing):
    """Exactly, over all binary rewards: the group's mean contains the token's own subtree."""
    ids = torch.tensor([[0 if row < sharing else 10 + row, 20 + row, 30 + row] for row in range(leaves)])
    mask = torch.tensor([[1, 0, 1]] * leaves)
    total = torch.zeros(2, dtype=torch.float64)
    for rewards in itertools.product((0.0, 1.0), repeat=leaves):
        scores = torch.zeros(leaves, 3, dtype=torch.float64)
        scores[:, 0] = torch.tensor(rewards)
        none = torch.zeros(leaves, dtype=torch.bool)
        batch = TreeBatch(scores, mask, torch.zeros(leaves, dtype=torch.long), none, ids)
        advantage = term_sum(batch, [{**NODE, "baseline": "none"}], score="centred")[0, 0]
        mean = sum(rewards[:sharing]) / sharing
        total += torch.tensor([float(advantage) * mean, (mean - 0.5) * mean])
    assert float(total[0] / total[1]) == pytest.approx((leaves - sharing) / leaves)
