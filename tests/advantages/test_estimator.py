"""The estimator in training: how an advantage is chosen, what it is given and what it may return."""

import math
import sys
from dataclasses import replace

import pytest
import torch
from hydra import compose, initialize_config_module
from verl.trainer.ppo.core_algos import get_adv_estimator_fn

from arpo_verl.advantages.tree.example import example_batch
from arpo_verl.algorithms.arpo import compute_arpo_advantage
from arpo_verl.integration.training.advantage import ChosenAdvantage, beside
from arpo_verl.integration.training.tree_columns import TreeColumns, _segment_ids, _turn_values
from arpo_verl.rollout.leaf_signals import SIGNALS, LeafSignals

OWN = """
import torch

def settings(batch, gamma, weight=1.0, *, norm_adv_by_std_in_grpo=True):
    return torch.full(batch.response_mask.shape, gamma * weight + 10 * norm_adv_by_std_in_grpo)
def anything(batch, **settings): return torch.full(batch.response_mask.shape, float(len(settings)))
def beside(batch): return torch.ones(batch.response_mask.shape), {"scale": batch.turn_ids / 2}
def with_gradient(batch): return torch.ones(batch.response_mask.shape, requires_grad=True) * 2
def integers(batch): return batch.turn_ids
def unmasked_nan(batch): return torch.where(batch.response_mask != 0, 1.0, float("nan"))
def nan(batch): return torch.full(batch.response_mask.shape, float("nan"))
def rows(batch): return batch.rewards
def nothing(batch): return None
def pair(batch): return torch.ones(batch.response_mask.shape), 5
def bad_column(batch): return torch.ones(batch.response_mask.shape), {"scale": batch.rewards}
def needs(batch, weight): return torch.ones(batch.response_mask.shape)
def empty(): return 1
def keywords(**settings): return 1
class Callable:
    def __call__(self, batch, weight=2.0): return torch.full(batch.response_mask.shape, weight)
instance = Callable()
"""
MASK = [torch.tensor([1, 1, 0, 1]), torch.tensor([1, 0])]


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    (tmp_path / "arpo_own_estimator.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("arpo_own_estimator", None)


def configuration(*overrides: str):
    with initialize_config_module("arpo_verl.config", version_base=None):
        return compose("arpo_trainer", overrides=["platform=cpu", *overrides])


def columns() -> TreeColumns:
    return TreeColumns(
        masks=MASK,
        scores=[torch.zeros(4), torch.zeros(2)],
        segment_ids=[torch.tensor([0, 0, 1, 2]), torch.tensor([3, 4])],
        is_excluded=torch.tensor([False, False]),
        has_no_reward=torch.tensor([False, False]),
        parents=torch.tensor([-1, -1]),
        fork_tokens=torch.tensor([0, 0]),
        turn_rewards=None,
        info_gains=None,
        entropies=None,
        log_probs=None,
        is_apart=torch.tensor([False, False]),
        row_weights=[1.0, 1.0],
        is_replay=[False, False],
        grown_rewards=[0.0, 0.0],
    )


def test_a_token_that_verl_rejects_leaves_its_turn_whole_and_gets_no_advantage():
    rejected = torch.tensor([[1, 0, 0, 1], [1, 0, 0, 0]])  # the second token, which the row has sampled
    rewards = torch.tensor([[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    batch = columns().batch(rewards, rejected, ["a", "a"])
    assert batch.response_mask.tolist() == torch.nn.utils.rnn.pad_sequence(MASK, batch_first=True).tolist()
    with beside(columns(), ChosenAdvantage.of(configuration("arpo.advantage=soft"))):
        advantages = get_adv_estimator_fn("arpo")(rewards, rejected, None, ["a", "a"])[0]
    assert (advantages != 0).tolist() == [[bool(one) for one in row] for row in rejected.tolist()]


def estimated(name: str, *overrides: str):
    """Return the advantages that verl gets, and what is kept for the loss."""
    config = configuration(f"arpo.advantage={name}", *overrides)
    rewards = torch.tensor([[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    mask = torch.nn.utils.rnn.pad_sequence(MASK, batch_first=True)
    with beside(columns(), ChosenAdvantage.of(config)) as laid:
        advantages, returns = get_adv_estimator_fn("arpo")(
            token_level_rewards=rewards, response_mask=mask, config=config.algorithm, index=["p", "p"]
        )
    assert returns is advantages
    return advantages, laid.for_loss


@pytest.mark.parametrize("name", ["soft", "hard"])
@pytest.mark.parametrize("divides", [True, False])
def test_the_shipped_advantages_are_those_of_the_public_function(name, divides):
    advantages, _ = estimated(name, f"algorithm.norm_adv_by_std_in_grpo={divides}")
    rewards = torch.tensor([[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    mask = torch.tensor([[1, 1, 0, 1], [1, 0, 0, 0]])
    ids = torch.tensor([[0, 0, 1, 2], [3, 4, -1, -1]])
    expected, _ = compute_arpo_advantage(rewards, mask, ["p", "p"], ids, mode=name, norm_by_std=divides)
    assert torch.equal(advantages, expected)


@pytest.mark.parametrize(
    ("name", "overrides", "value"),
    [
        # gamma and norm_adv_by_std_in_grpo are keys of verl's algorithm group.
        ("settings", [], 11.0),
        ("settings", ["algorithm.gamma=0.5", "algorithm.norm_adv_by_std_in_grpo=False"], 0.5),
        ("settings", ["+arpo.advantage_kwargs={weight: 3, gamma: 2}"], 16.0),
        ("anything", ["+arpo.advantage_kwargs={a: 1, b: [2]}"], 2.0),
        ("instance", ["+arpo.advantage_kwargs.weight=4"], 4.0),
        ("with_gradient", [], 2.0),
        ("unmasked_nan", [], 1.0),
    ],
)
def test_an_own_advantage_gets_its_settings(name, overrides, value):
    advantages, _ = estimated(f"arpo_own_estimator.{name}", *overrides)
    assert advantages.tolist() == [[value, value, 0, value], [value, 0, 0, 0]]
    assert not advantages.requires_grad and advantages.dtype == torch.float32


def test_integers_become_numbers_and_tensors_beside_reach_the_loss():
    assert estimated("arpo_own_estimator:integers")[0].tolist() == [[1, 1, 0, 2], [1, 0, 0, 0]]
    _, for_loss = estimated("arpo_own_estimator:beside")
    assert for_loss["scale"].tolist() == [[0.5, 0.5, 0, 1], [0.5, 0, 0, 0]]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nan", r"returned advantages that are not finite numbers in the rows \[0, 1\] of 2"),
        ("rows", r"returned advantages of the shape \(2,\); expected a tensor of the shape \(2, 4\)"),
        ("nothing", "returned advantages of None; expected a tensor"),
        ("pair", "returned a tuple with a int; expected a tensor, or a tensor and a dictionary"),
        ("bad_column", r"returned scale of the shape \(2,\)"),
    ],
)
def test_what_an_own_advantage_may_not_return_is_said(name, message):
    with pytest.raises(ValueError, match=rf"arpo.advantage=arpo_own_estimator.{name} {message}"):
        estimated(f"arpo_own_estimator.{name}")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["arpo.advantage=arpo_own_estimator.needs"], r"the parameters \['weight'\] without a value"),
        (["arpo.advantage=arpo_own_estimator.empty"], r"takes \[\]; expected a TreeBatch as its first argument"),
        (["arpo.advantage=arpo_own_estimator.keywords"], r"takes \['settings'\]; expected a TreeBatch"),
        (
            ["arpo.advantage=soft", "+arpo.advantage_kwargs.epsilom=1"],
            "kwargs.epsilom is not a known setting",
        ),
        (["arpo.advantage=soft", "+arpo.advantage_kwargs.batch=1"], "advantage_kwargs.batch is not a known setting"),
        (["arpo.advantage=arpo_own_estimator.absent"], "has no 'absent'"),
        (["arpo.advantage=arpo_no_module.f"], "can't be imported"),
        *(
            ([f"arpo.advantage=arpo_own_estimator.{name}"], rf"{name} fails on an example of two prompts, {said}")
            for name, said in (("nan", "ValueError: .* not finite"), ("nothing", "ValueError: .* None"))
        ),
        (
            ["arpo.advantage=term_sum", "+arpo.advantage_kwargs.terms=[{unit: leaf, baseline: tre}]"],
            r"fails on an example .*baseline='tre'; expected one of none, group, group_tokens, tree",
        ),
        (
            ["arpo.advantage=term_sum", "+arpo.advantage_kwargs.terms=[{unti: leaf}]"],
            "fails on an example of two prompts, TypeError: .*unti",
        ),
        (["arpo.advantage=sotf"], "expected one of hard, soft, term_sum, or the dotted path"),
    ],
)
def test_an_advantage_that_cant_work_is_refused_before_the_run(overrides, message):
    from arpo_verl.preflight.checks import check_parts

    with pytest.raises(ValueError, match=message):
        check_parts(configuration(*overrides))


def test_an_advantage_is_tried_on_an_example_of_which_all_is_known():
    from arpo_verl.preflight.checks import check_parts

    term = "{unit: node, signal: turn_reward, baseline: turn, scale: std}"
    check_parts(configuration("arpo.advantage=term_sum", f"+arpo.advantage_kwargs.terms=[{term}]"))
    assert None not in vars(example_batch()).values()


def test_verls_other_estimators_are_not_asked_for_an_advantage():
    from arpo_verl.preflight.checks import check_parts

    check_parts(configuration("algorithm.adv_estimator=grpo", "arpo.advantage=arpo_no_module.f"))


def test_the_mean_entropy_is_that_of_the_sampled_tokens_of_rows_that_count():
    # verl's padding rows may have more entropies than tokens: they are copies of a leaf.
    entropies = [torch.tensor([1.0, 2.0, 100.0, 6.0]), torch.tensor([100.0, 100.0, 100.0])]
    known = replace(columns(), entropies=entropies, is_excluded=torch.tensor([False, True]))
    assert known.mean_entropy() == 3.0
    assert math.isnan(columns().mean_entropy())


def test_a_row_without_segments_is_cut_where_its_mask_changes_and_shares_nothing():
    masks = [torch.tensor([1, 1, 0, 1]), torch.tensor([1, 1]), torch.tensor([0])]
    ids = list(_segment_ids([None, None, torch.tensor([7])], masks, [False, False, True]))
    assert [one.tolist() for one in ids] == [[1, 1, 2, 3], [4, 4], [-1]]


def leaf_fields(turns: int, **reward_parts) -> dict:
    """Extra fields of a leaf of so many turns, with a result after each but the last."""
    segments = [{"id": i, "tokens": 2, "is_sampled": i % 2 == 0} for i in range(2 * turns - 1)]
    return {"arpo": {"segments": segments}, "reward_extra_info": reward_parts}


@pytest.mark.parametrize("bad", ["1", 1.0, [True], ["1"], {"a": 1}, [[1.0]], [], [1.0, 2.0], [math.inf], [10**400]])
def test_a_leaf_whose_reward_gives_no_number_for_each_turn_has_no_rewards_of_turns(bad, caplog):
    fields = {"a_0_0": leaf_fields(1, turn_rewards=bad), "a_1_0": leaf_fields(1, turn_rewards=[0.5])}
    assert _turn_values("turn_rewards", ["a_0_0", "a_1_0"], fields).nan_to_num(-9).tolist() == [[-9], [0.5]]
    assert "leaf a_0_0 has no rewards of its turns" in caplog.text and "a_1_0" not in caplog.text


def test_rewards_by_turn_are_padded_with_nan():
    fields = {"a_0_0": leaf_fields(2, turn_rewards=[1, 0.5]), "a_1_0": leaf_fields(2)}
    assert _turn_values("turn_rewards", ["a_0_0", "a_1_0", "pad_0_0"], fields).nan_to_num(-9).tolist() == [
        [1, 0.5],
        [-9, -9],
        [-9, -9],
    ]
    assert _turn_values("turn_rewards", ["a_1_0"], fields) is None


def test_where_no_leaf_has_rewards_of_turns_there_is_a_column_of_nothing():
    failed = {SIGNALS: LeafSignals(turn_reward_failure="KeyError: 'x'").as_dict()}
    rewards = _turn_values("turn_rewards", ["a_0_0", "a_1_0"], {"a_0_0": leaf_fields(2) | failed})
    assert rewards.isnan().tolist() == [[True], [True]]


def test_a_turn_without_a_reward_is_no_failure():
    fields = {"a_0_0": leaf_fields(3, turn_rewards=[None, 0.5, math.nan])}
    assert _turn_values("turn_rewards", ["a_0_0"], fields).nan_to_num(-9).tolist() == [[-9, 0.5, -9]]


def test_the_runs_own_turn_rewards_come_before_those_of_the_reward():
    ours = {SIGNALS: LeafSignals(turn_rewards=[0.25, None]).as_dict()}
    failed = {SIGNALS: LeafSignals(turn_reward_failure="KeyError: 'x'").as_dict()}
    fields = {
        "a_0_0": leaf_fields(2, turn_rewards=[1, 1]) | ours,
        "a_1_0": leaf_fields(2, turn_rewards=[1, 1]) | failed,
    }
    assert _turn_values("turn_rewards", ["a_0_0", "a_1_0"], fields).nan_to_num(-9).tolist() == [[0.25, -9], [-9, -9]]


def test_information_gains_of_the_reward_are_read_like_its_rewards_of_turns(caplog):
    fields = {"a_0_0": leaf_fields(2, info_gains=[0.5, None]), "a_1_0": leaf_fields(1, info_gains="none")}
    assert _turn_values("info_gains", ["a_0_0", "a_1_0"], fields).nan_to_num(-9).tolist() == [[0.5, -9], [-9, -9]]
    assert "leaf a_1_0 has no information gains" in caplog.text
    measured = {SIGNALS: LeafSignals(info_gains=[0.25, None]).as_dict()}
    assert _turn_values("info_gains", ["a_0_0"], {"a_0_0": fields["a_0_0"] | measured})[0, 0] == 0.25
