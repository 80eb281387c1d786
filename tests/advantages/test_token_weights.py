"""Weights of tokens and rows, clip scales and masks for the loss, and terms on some turns alone, worked out by hand."""

import pytest
import torch
from random_trees import random_batch
from tree_examples import GROUP, GROUP_STD, LEAF, NODE, PARENT, PRESETS, P, batch_of, t5, turns

from arpo_verl.advantages import TreeBatch
from arpo_verl.advantages.term_sum import term_sum
from arpo_verl.advantages.tree.nodes import TurnNodes
from arpo_verl.advantages.tree.token_weights import entropy_hat, entropy_z_weights

HAPO_ENTROPIES = [1e-4, 0.01, 0.1, 0.5, 1.0, 2.0]
HAPO_HATS = [-1, -1 / 3, 0, 0.537243, 0.768622, 1]
NONE = float("nan")


def one_row(entropies: list[float]) -> TreeBatch:
    width = len(entropies)
    return batch_of([[0] * width], [[1] * width], [1.0], entropies=torch.tensor([entropies], dtype=torch.float64))


def test_uncertain_tokens_weigh_more_by_their_z():
    weights = entropy_z_weights(one_row([0.1, 0.4, 1.0]), 0.2)
    assert weights[0].tolist() == pytest.approx([0.825426, 0.956356, 1.218218], abs=1e-6)
    assert entropy_z_weights(one_row([0.5, 0.5, 0.5]), 0.2).tolist() == [[1, 1, 1]]


def test_z_is_taken_over_all_sampled_tokens_that_count_and_multiplies_the_advantage():
    entropies = torch.full((5, 5), 77.0, dtype=torch.float64)
    entropies[0, :2], entropies[3, :2] = torch.tensor([0.1, 0.4]), torch.tensor([1.0, 1.0])
    mask = torch.zeros(5, 5, dtype=torch.long)
    mask[0, :2], mask[3, 0], mask[4, 0] = 1, 1, 1
    batch = t5(excluded=[4], entropies=entropies)
    object.__setattr__(batch, "response_mask", mask)
    plain, weighted = term_sum(batch, GROUP), term_sum(batch, GROUP, token_weight="entropy_z")
    assert plain[0, 0] != 0 and weighted[4].tolist() == [0] * 5
    assert (weighted / plain)[0, :2].tolist() == pytest.approx([0.825426, 0.956356], abs=1e-6)
    assert float((weighted / plain)[3, 0]) == pytest.approx(1.218218, abs=1e-6)


def test_the_log_entropy_is_scaled_to_1_on_both_sides_of_the_quantile():
    batch = one_row(HAPO_ENTROPIES)
    hats = entropy_hat(batch, TurnNodes.of(batch), 0.5)
    assert hats[0].tolist() == pytest.approx(HAPO_HATS, abs=1e-6)
    same = one_row([0.3] * 4)
    assert entropy_hat(same, TurnNodes.of(same), 0.8).tolist() == [[0] * 4]


def test_shared_tokens_count_once_in_the_quantile_and_have_the_same_hat_in_all_copies():
    ids = [[0, 0, 1, 2], [0, 0, 1, 3], [0, 0, 1, 4], [0, 0, 1, 5]]
    first = [1e-4, 0.01]
    last = [[0.1], [0.5], [1.0], [2.0]]
    entropies = torch.tensor([[*first, 9.0, *one] for one in last], dtype=torch.float64)
    batch = batch_of(ids, [[1, 1, 0, 1]] * 4, [1.0, 0.0, 0.0, 0.0], entropies=entropies)
    advantages, for_loss = term_sum(batch, GROUP, clip_scale="entropy_hat", entropy_quantile=0.5)
    expected = [[*HAPO_HATS[:2], 0, hat] for hat in HAPO_HATS[2:]]
    assert for_loss["entropy_hat"].tolist() == [pytest.approx(row, abs=1e-6) for row in expected]
    assert torch.equal(advantages, term_sum(batch, GROUP))


def test_a_batch_of_which_nothing_counts_has_neutral_weights():
    batch = t5(excluded=range(5), entropies=torch.ones(5, 5), log_probs=-torch.ones(5, 5))
    advantages, for_loss = term_sum(
        batch, GROUP, token_weight="entropy_z", clip_scale="entropy_hat", novelty={}, silent_turns="mask"
    )
    assert not advantages.any() and not for_loss["entropy_hat"].any() and not for_loss["loss_mask"].any()


def test_the_bounds_of_turns_are_scaled_by_their_gain():
    # A²TGPO: z = (1, 0), (-1, 1), (0, -1); the answer has no gain.
    ids, mask = [[5 * row + one for one in range(5)] for row in range(3)], [[1, 0, 1, 0, 1]] * 3
    gains = torch.tensor([[0.3, 0.1, NONE], [0.1, 0.3, NONE], [0.2, -0.1, NONE]], dtype=torch.float64)
    batch = batch_of(ids, mask, [1.0, 0.0, 1.0], info_gains=gains)
    term = {**NODE, "signal": "info_gain", "baseline": "turn", "scale": "std", "discount": 1.0, "weight": 0.3}
    _, for_loss = term_sum(batch, [*GROUP_STD, term], clip_scale="turn_signal", epsilon=0.0)
    expected = [0.138635, 0, 0], [-0.138635, 0.138635, 0], [0, -0.138635, 0]
    for name in ("clip_scale_low", "clip_scale_high"):
        assert turns(for_loss[name] - 1, batch) == [pytest.approx(row, abs=1e-6) for row in expected]
    without_last = batch_of(ids, mask, [1.0, 0.0, 1.0], excluded=[2], info_gains=gains)
    _, for_loss = term_sum(without_last, [*GROUP_STD, term], clip_scale="turn_signal", epsilon=0.0)
    assert for_loss["clip_scale_high"][2].tolist() == [1] * 5  # rows that do not count keep the loss's own bounds
    with pytest.raises(ValueError, match="clip_scale=turn_signal without a term whose signal is one of turns"):
        term_sum(batch, GROUP_STD, clip_scale="turn_signal")


def test_improbable_successes_get_a_bonus_up_to_a_cap():
    # XRPO: A 1, s -1.2, s̄ -.9, λ 1, κ .5.
    log_probs = torch.tensor([[-1.2, -1.2], [-0.6, -0.6], [-0.9, -0.9], [-0.9, -0.9]])
    batch = batch_of([[0, 0], [1, 1], [2, 2], [3, 3]], [[1, 1]] * 4, [1.5, 0.5, 0.5, -0.5], log_probs=log_probs)
    found = term_sum(batch, GROUP, novelty={"weight": 1.0, "cap": 0.5})
    assert found[:, 0].tolist() == pytest.approx([1.259182, 0, 0, -1], abs=1e-6)
    assert term_sum(batch, GROUP, novelty={"cap": 0.1})[0, 0].item() == pytest.approx(1.1)
    with pytest.raises(ValueError, match="expected a mapping of some of weight, cap"):
        term_sum(batch, GROUP, novelty={"wieght": 1})


@pytest.mark.parametrize("seed", range(20))
def test_what_weighs_nothing_leaves_the_advantage_as_it_is_bit_for_bit(seed):
    batch = random_batch(seed)
    generator = torch.Generator().manual_seed(seed)
    shape = batch.response_mask.shape
    object.__setattr__(batch, "entropies", torch.rand(shape, generator=generator))
    object.__setattr__(batch, "log_probs", -torch.rand(shape, generator=generator))
    object.__setattr__(batch, "info_gains", torch.rand(len(batch.prompt), 3, generator=generator))
    object.__setattr__(batch, "turn_rewards", batch.info_gains)
    base = term_sum(batch, GROUP_STD)
    assert torch.equal(term_sum(batch, GROUP_STD, token_weight="entropy_z", entropy_strength=0.0), base)
    assert torch.equal(term_sum(batch, GROUP_STD, novelty={"weight": 0.0}), base)
    turn = {**NODE, "baseline": "turn", "scale": "std", "weight": 0.0}
    gain = {**turn, "signal": "info_gain", "discount": 1.0, "divides_by_sqrt_turns": True}
    for added in ({**turn, "signal": "turn_reward"}, gain, {**NODE, "baseline": "children", "weight": 0.0}):
        assert torch.equal(term_sum(batch, [*GROUP_STD, added]), base)


def test_silent_turns_are_out_of_the_loss():
    # CARL on T5: the roots are siblings, and so are the leaves below A; the second turn of B has none.
    advantages, for_loss = term_sum(t5(), PARENT, value="child_mean", silent_turns="mask")
    assert torch.equal(advantages, term_sum(t5(), PARENT, value="child_mean"))
    expected = t5().response_mask.clone()
    expected[3, 3] = 0
    assert torch.equal(for_loss["loss_mask"], expected)
    advantages, _ = term_sum(t5(), [*PARENT, *GROUP], value="child_mean", silent_turns="mask")
    assert advantages[3, 3] == 0 and advantages[3, 0] != 0


def test_the_standard_deviation_of_siblings_divides_their_differences():
    found = turns(term_sum(t5(), [{**NODE, "baseline": "children", "scale": "std"}], value="child_mean"), t5())
    firsts = [found[row][0] for row in (0, 3, 4)]
    assert firsts == pytest.approx([-0.218218, 1.091089, -0.872872], abs=1e-5)


def test_the_groups_mean_may_be_over_tokens():
    # HAPO: leaves of 1, 3 and 4 tokens with the rewards 1, 0 and 1; mean 5/8, variance 15/64.
    ids = [[row] * 4 for row in range(3)]
    mask = [[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    batch = batch_of(ids, mask, [1.0, 0.0, 1.0])
    term = {**LEAF, "baseline": "group_tokens"}
    assert term_sum(batch, [term])[:, 0].tolist() == pytest.approx([3 / 8, -5 / 8, 3 / 8])
    scaled = term_sum(batch, [{**term, "scale": "std_pop"}], epsilon=0.0)[:, 0]
    assert scaled.tolist() == pytest.approx([one / (15 / 64) ** 0.5 for one in (3 / 8, -5 / 8, 3 / 8)])
    equal = batch_of(ids, mask, [1.0] * 3)
    assert not term_sum(equal, [{**term, "scale": "std"}]).any()
    without = batch_of(ids, mask, [1.0, 0.0, 9.0], excluded=[2])
    assert term_sum(without, [term])[:, 0].tolist() == pytest.approx([3 / 4, -1 / 4, 0])


def test_the_undiscounted_return_against_the_group_is_grpo_without_the_deviation():
    # IPA with γ = 1; of leaves that do not branch, whatever their numbers of turns.
    batch = batch_of([[0, 1, 2], [3, P, P], [4, 5, 6]], [[1, 0, 1], [1, 0, 0], [1, 0, 1]], [1.0, 0.0, 0.0])
    returns = term_sum(batch, [{**NODE, "baseline": "group", "discount": 1.0}])
    assert returns == pytest.approx(term_sum(batch, GROUP), abs=1e-12)


# Two chains; the first forks three times at its result, and all four of its ends are below one turn.
FORKED_IDS = [[0, 0, 1, 2], [0, 0, 1, 3], [0, 0, 1, 4], [0, 0, 1, 5], [0, 0, 1, 6], [7, 7, 8, P]]
FORKED_MASK = [[1, 1, 0, 1]] * 5 + [[1, 1, 0, 0]]


def forked(rewards: list[float], excluded=()) -> TreeBatch:
    more = {"parents": torch.tensor([-1, 0, 0, 0, 0, -1]), "fork_tokens": torch.tensor([0, 3, 3, 3, 3, 0])}
    return batch_of(FORKED_IDS, FORKED_MASK, rewards, excluded, **more)


DEEP_GRPO = [
    {**LEAF, "baseline": "chains", "where": "chains"},
    {**LEAF, "baseline": "forks", "where": "forks"},
]


def test_chains_are_compared_with_chains_and_forks_with_those_of_their_fork_point():
    # DEEP-GRPO: continuations (1, 0, 0, 1) have ±1/2; the chains 0 and 1 have ∓1/2.
    batch = forked([0.0, 1.0, 0.0, 0.0, 1.0, 1.0])
    found = term_sum(batch, DEEP_GRPO)
    assert found[0].tolist() == [-0.5, -0.5, 0, -0.5] and found[5].tolist() == [0.5, 0.5, 0, 0]
    assert found[1:5].tolist() == [[0, 0, 0, half] for half in (0.5, -0.5, -0.5, 0.5)]
    without = term_sum(forked([0.0, 1.0, 0.0, 0.0, 1.0, 1.0], excluded=[3, 4]), DEEP_GRPO)
    assert without[1:5, 3].tolist() == [0.5, -0.5, 0, 0]


def test_two_averages_are_folded_into_one():
    batch = forked([0.0, 1.0, 0.0, 0.0, 1.0, 1.0])
    plain, folded = term_sum(batch, DEEP_GRPO), term_sum(batch, DEEP_GRPO, fork_weight=0.5)
    mask = batch.response_mask != 0
    is_fork = torch.zeros_like(mask)
    is_fork[1:5, 3] = True
    is_chain = torch.zeros_like(mask)
    is_chain[[0, 5]] = mask[[0, 5]]
    # Any function of the tokens: the sum over all, over their number, is the sum of the two means.
    values = torch.rand(mask.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one = (folded * values)[mask].mean()
    two = (plain * values)[is_chain].mean() + 0.5 * (plain * values)[is_fork].mean()
    assert float(one) == pytest.approx(float(two))
    with pytest.raises(ValueError, match="parents=None or fork_tokens=None"):
        term_sum(t5(), GROUP, fork_weight=1.0)


def test_a_shared_turn_is_compared_with_roots_and_its_branches_with_leaves():
    # BranPO, unnormalised: chain 0 with branches 1 and 0, chain 1 failed. Base +.25 once, branches 2/3 and ∓1/3.
    ids, mask = [[0, 1, 2], [0, 1, 3], [4, 5, 6]], [[1, 0, 1]] * 3
    batch = batch_of(ids, mask, [1.0, 0.0, 0.0])
    base = {**NODE, "baseline": "root", "where": "shared", "once": True}
    branch = {**LEAF, "baseline": "group", "where": "own"}
    found = turns(term_sum(batch, [base, branch], value="child_mean"), batch)
    assert found[0] == pytest.approx([0.125, 2 / 3]) and found[1] == pytest.approx([0.125, -1 / 3])
    assert found[2] == pytest.approx([-1 / 3, -1 / 3])
    # Twice .125 is the base's +.25; that of a chain that did not fork is -.25.
    alone = term_sum(batch, [{**NODE, "baseline": "root", "once": True}], value="child_mean")
    assert float(alone[0, 0] + alone[1, 0]) == pytest.approx(0.25) and float(alone[2, 0]) == pytest.approx(-0.25)


def test_the_groups_term_replaces_what_is_against_siblings_alone():
    # Two chains of two turns; the second turns have the rewards 1 and 5, of the mean 3, and outcomes 1 and 0.
    ids, mask = [[0, 1, 2], [3, 4, 5]], [[1, 0, 1]] * 2
    batch = batch_of(ids, mask, [1.0, 0.0], turn_rewards=torch.tensor([[0.0, 1.0], [0.0, 5.0]], dtype=torch.float64))
    signal = {**NODE, "signal": "turn_reward", "baseline": "turn"}
    assert turns(term_sum(batch, [signal], silent_turns="group"), batch) == [[0, -2], [0, 2]]
    against_parent = turns(term_sum(batch, PARENT, silent_turns="group"), batch)
    assert against_parent == [[0.5, 0.5], [-0.5, -0.5]]


REFUSED_TERMS = [
    {**NODE, "baseline": "parent", "scale": "std"},
    {**NODE, "baseline": "shrunk", "scale": "std_pop"},
    {**NODE, "baseline": "root", "scale": "std"},
    {**NODE, "baseline": "none", "scale": "std"},
    {**LEAF, "baseline": "none", "scale": "std"},
    {**LEAF, "baseline": "ancestors", "scale": "std"},
    {**LEAF, "baseline": "group", "scale": "sqrt_leaves"},
    {**NODE, "signal": "turn_reward", "baseline": "turn", "scale": "sqrt_leaves"},
    {**NODE, "signal": "turn_reward", "baseline": "none", "scale": "std"},
    {**LEAF, "discount": 0.5},
    {**NODE, "baseline": "children", "discount": 0.5, "divides_by_sqrt_turns": True},
    {**NODE, "signal": "turn_reward", "baseline": "turn", "divides_by_sqrt_turns": True},
    {**NODE, "baseline": "children", "ends_with_score": True},
]


@pytest.mark.parametrize("term", REFUSED_TERMS, ids=str)
def test_what_a_term_can_not_have_is_refused_and_not_left_out(term):
    with pytest.raises(ValueError, match=r"the term .*; expected .*: (change|add)"):
        term_sum(t5(), [term])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"terms": GROUP, "silent_turns": "drop"}, "silent_turns='drop'; expected one of zero, group, mask"),
        (
            {"terms": GROUP, "token_weight": "entropy_hat"},
            "token_weight='entropy_hat'; expected one of none, entropy_z",
        ),
        ({"terms": GROUP, "clip_scale": "low"}, "clip_scale='low'; expected one of none, entropy_hat, turn_signal"),
        ({"terms": [{**LEAF, "where": "leaves"}]}, "where='leaves'; expected one of all, shared, own, chains, forks"),
        ({"terms": [{**LEAF, "signal": "info_gain"}]}, "unit=leaf; expected unit=node"),
        ({"terms": [{**NODE, "baseline": "joint"}]}, "baseline='joint'; expected one of none, group, root"),
        ({"terms": GROUP, "token_weight": "entropy_z"}, "entropies=None; expected the entropy of every token"),
        ({"terms": GROUP, "novelty": {}}, "log_probs=None; expected the policy's log-probabilities"),
    ],
)
def test_words_that_are_not_known_and_what_is_missing_are_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        term_sum(t5(), **settings)


@pytest.mark.parametrize("preset", PRESETS)
def test_without_tensors_for_the_loss_a_sum_of_terms_is_a_tensor_alone(preset):
    assert isinstance(term_sum(t5(), **PRESETS[preset]), torch.Tensor)
