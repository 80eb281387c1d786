"""The loss of blocks: gradients of every clip and ratio, worked numbers, and what it shares with verl's losses."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from verl.trainer.ppo.core_algos import (
    compute_policy_loss_cispo,
    compute_policy_loss_gspo,
    compute_policy_loss_vanilla,
)
from verl.workers.config import FSDPActorConfig

from arpo_verl.losses.blocks.balance import balanced_bounds, candidates, gradient_sums
from arpo_verl.losses.blocks.clip import Bounds
from arpo_verl.losses.blocks.settings import BALANCE, CLIPS, RATIOS
from arpo_verl.losses.blocks.token_weights import future_factor, future_ratios
from arpo_verl.losses.composed import composed

BOUNDS_FOUND = {"mini_batch_sums": lambda own: None}
"""What a balanced loss needs; its bounds are the start of the search."""


def config(**changes) -> FSDPActorConfig:
    sizes = {"rollout_n": 2, "ppo_mini_batch_size": 2, "ppo_micro_batch_size_per_gpu": 1}
    return FSDPActorConfig(strategy="fsdp", **sizes, **changes)


def arguments(ratios: list[float], advantages: list[float], mode: str = "token-sum") -> dict:
    log_prob = torch.tensor([ratios], dtype=torch.float64).log().requires_grad_()
    return {
        "old_log_prob": torch.zeros_like(log_prob),
        "log_prob": log_prob,
        "advantages": torch.tensor([advantages], dtype=torch.float64),
        "response_mask": torch.ones(1, len(ratios), dtype=torch.bool),
        "loss_agg_mode": mode,
        "config": config(),
    }


def gradient(loss, **arguments_of_loss) -> torch.Tensor:
    value, _ = loss(**arguments_of_loss)
    [found] = torch.autograd.grad(value, arguments_of_loss["log_prob"])
    return found


def coefficients(arguments_of_loss: dict, **blocks) -> list[float]:
    """Return what multiplies A ∇log π in the gradient of minus the loss."""
    found = gradient(composed, **arguments_of_loss, **blocks)
    return (-found / arguments_of_loss["advantages"])[0].tolist()


def tensor(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def random_batch(seed: int, dtype=torch.float32, spread: float = 1.0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    old = torch.randn(6, 9, generator=generator, dtype=dtype)
    return {
        "old_log_prob": old,
        "log_prob": (old + spread * torch.randn(6, 9, generator=generator, dtype=dtype)).requires_grad_(),
        "advantages": torch.randn(6, 9, generator=generator, dtype=dtype),
        "response_mask": torch.rand(6, 9, generator=generator) < 0.7,
        "rollout_is_weights": torch.rand(6, 9, generator=generator, dtype=dtype),
        "config": config(),
    }


@pytest.mark.parametrize(
    ("clip", "positive", "negative"),
    [
        ("ppo", [0.5, 1.1, 0, 0], [0, 1.1, 1.5, 0]),
        ("grad_preserving", [0.5, 1.1, 1.2, 1.2], [0, 1.1, 1.5, 0]),
        ("cispo", [0.8, 1.1, 1.2, 1.2], [0.8, 1.1, 1.2, 1.2]),
    ],
)
def test_the_gradient_of_each_clip_inside_and_outside_of_the_bounds(clip, positive, negative):
    for sign, expected in ((2.0, positive), (-2.0, negative)):
        assert coefficients(arguments([0.5, 1.1, 1.5, 4.0], [sign] * 4), clip=clip) == pytest.approx(expected)


def test_the_balanced_clip_is_ppos_between_the_bounds_that_were_found():
    given_ = arguments([0.5, 0.7, 1.1, 1.25, 4.0], [1.0] * 5)
    assert coefficients(given_, clip="balanced", **BOUNDS_FOUND) == pytest.approx([0.5, 0.7, 1.1, 0, 0])
    given_ = arguments([0.5, 0.7, 1.1, 1.25, 4.0], [-1.0] * 5)
    assert coefficients(given_, clip="balanced", **BOUNDS_FOUND) == pytest.approx([0, 0.7, 1.1, 1.25, 0])


def test_without_the_dual_clip_a_negative_token_keeps_its_gradient_however_large_its_ratio():
    assert coefficients(arguments([4.0], [-1.0]), dual_clip=0) == pytest.approx([4.0])
    assert coefficients(arguments([4.0, 6.0], [-1.0] * 2), dual_clip=5) == pytest.approx([4.0, 0.0])


@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-sum", "seq-mean-token-mean"])
@pytest.mark.parametrize("bounds", [{}, {"clip_ratio_low": 0.1, "clip_ratio_high": 0.5, "clip_ratio_c": 2.0}])
@pytest.mark.parametrize(
    ("verls", "blocks"),
    [
        (compute_policy_loss_vanilla, {}),
        (compute_policy_loss_cispo, {"clip": "cispo"}),
        (compute_policy_loss_gspo, {"ratio": "sequence", "dual_clip": 0}),
    ],
)
def test_verls_losses_are_blocks_of_ours_to_the_last_bits(verls, blocks, bounds, mode):
    batch = random_batch(0) | {"config": config(**bounds), "loss_agg_mode": mode}
    (one, metrics), (other, theirs) = composed(**batch, **blocks), verls(**batch)
    [ours], [verls_gradient] = (torch.autograd.grad(loss, batch["log_prob"]) for loss in (one, other))
    if blocks:
        assert one.item() == pytest.approx(other.item(), rel=1e-6)
        assert ours == pytest.approx(verls_gradient, rel=1e-5, abs=1e-7)
    else:
        assert one.item() == other.item() and torch.equal(ours, verls_gradient)
    assert {name: metrics[name] for name in theirs} == pytest.approx(theirs)


@given(st.integers(0, 2**32), st.sampled_from(["token", "turn"]))
@settings(max_examples=30, deadline=None)
def test_grad_preserving_has_ppos_value_and_its_gradient_but_above_the_bound_of_positive_tokens(seed, ratio):
    batch = random_batch(seed, torch.float64) | {"loss_agg_mode": "token-mean"}
    (one, _), (other, _) = (composed(**batch, ratio=ratio, clip=clip) for clip in ("ppo", "grad_preserving"))
    assert one.item() == pytest.approx(other.item(), abs=1e-12)
    [ppo], [kept] = (torch.autograd.grad(loss, batch["log_prob"]) for loss in (one, other))
    differs = ppo != kept
    assert (ppo[differs] == 0).all() and (batch["advantages"][differs] > 0).all()


@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-mean"])
def test_before_the_first_update_all_ratios_and_clips_have_one_gradient(mode):
    batch = random_batch(3, torch.float64, spread=0.0) | {"loss_agg_mode": mode}
    expected = gradient(compute_policy_loss_vanilla, **batch)
    for ratio in RATIOS:
        for clip in CLIPS:
            found = gradient(composed, **batch, ratio=ratio, clip=clip, **BOUNDS_FOUND)
            assert found == pytest.approx(expected, abs=1e-12), (ratio, clip)


TURNS = {"turn_ids": torch.tensor([[1, 1, 0, 2, 2]]), "response_mask": torch.tensor([[1, 1, 0, 1, 1]]).bool()}


def two_turns(advantages: list[float]) -> dict:
    """Return log δ (.2, -.1 | result | .3, .1)."""
    given_ = arguments([1.0] * 5, advantages, "token-mean") | TURNS
    return given_ | {
        "log_prob": tensor([0.2, -0.1, 5.0, 0.3, 0.1]).requires_grad_(),
        "config": config(clip_ratio_high=1.0),
    }


def test_the_ratio_of_a_turn_is_the_geometric_mean_with_the_gradient_of_each_token():
    found = gradient(composed, **two_turns([1.0, 1.0, 1.0, -1.0, -1.0]), ratio="turn")
    assert found[0].tolist() == pytest.approx([-0.262818, -0.262818, 0, 0.305351, 0.305351], abs=1e-6)
    value, metrics = composed(**two_turns([1.0] * 5), ratio="turn")
    assert value.item() == pytest.approx(-(1.051271 + 1.221403) / 2, abs=1e-6)
    assert metrics["actor/log_ratio_of_sets"] == pytest.approx((0.05 + 0.2) / 2)


def test_it_has_the_gradient_of_the_geometric_mean_itself_where_the_advantage_is_constant_in_the_turn():
    # IPA's and Tree-GRPO's turn loss: the mean of the log-ratios with gradient.
    given_ = two_turns([1.0, 1.0, 1.0, -1.0, -1.0])
    log_ratio = given_["log_prob"]
    first, second = log_ratio[0, :2].mean().exp(), log_ratio[0, 3:].mean().exp()
    [expected] = torch.autograd.grad(-(2 * first - 2 * second) / 4, log_ratio)
    assert gradient(composed, **given_, ratio="turn") == pytest.approx(expected, abs=1e-12)


def test_with_one_turn_a_row_the_turns_ratio_is_that_of_the_sequence():
    batch = random_batch(5, torch.float64) | {"loss_agg_mode": "token-mean"}
    turn_ids = batch["response_mask"].long()
    by_turn, by_sequence = (gradient(composed, **batch, ratio=one, turn_ids=turn_ids) for one in ("turn", "sequence"))
    assert torch.equal(by_turn, by_sequence)


def test_without_turn_ids_runs_of_sampled_tokens_are_turns():
    given_ = two_turns([1.0, 1.0, 1.0, -1.0, -1.0])
    expected = gradient(composed, **given_, ratio="turn")
    del given_["turn_ids"]
    assert torch.equal(gradient(composed, **given_, ratio="turn"), expected)


def test_a_turn_is_clipped_as_a_whole_with_bounds_of_its_own():
    # Ratios e^.05 and e^.2, advantages +1 and -1: only the first is outside of what counts for its sign.
    found, metrics = composed(**two_turns([1.0, 1.0, 1.0, -1.0, -1.0]), ratio="turn", clip_low=0.003, clip_high=0.004)
    assert found.item() == pytest.approx((-2 * 1.004 + 2 * 1.221403) / 4, abs=1e-6)
    assert metrics["actor/clipped_as_a_whole"] == 0.5
    assert (metrics["actor/clipfrac_positive"], metrics["actor/clipfrac_negative"]) == (1.0, 0.0)


BAPO = {"ratio": tensor([2.5, 1.0, 0.5, 0.7]), "advantages": tensor([1.0, 0.25, -1.0, -1.5])}


def bapo_sums(**changes) -> torch.Tensor:
    return gradient_sums(**(BAPO | changes), dual=3.0, search=BALANCE)


def test_gradients_of_positive_and_negative_tokens_are_summed_for_each_bound():
    lows, highs = candidates(BALANCE)
    sums = bapo_sums()
    negative, positive = sums[: len(lows)].tolist(), sums[len(lows) :].tolist()
    # At (.6, 1.2): .25 of one positive token, 1.05 of one negative one.
    assert positive[0] / negative[0] == pytest.approx(0.238095, abs=1e-6)
    assert negative == pytest.approx([1.05] * 3 + [0] * 4)
    assert positive == pytest.approx([2.75 if bound >= 2.5 else 0.25 for bound in highs.tolist()])


def test_bounds_move_until_the_share_is_reached_the_lower_one_first():
    # At .75 no negative token has a gradient.
    assert balanced_bounds(bapo_sums(), BALANCE) == pytest.approx((0.75, 1.2))
    ratio = {"ratio": tensor([2.5, 1.0, 0.95, 1.0])}
    assert balanced_bounds(bapo_sums(**ratio), BALANCE) == pytest.approx((0.9, 2.5))
    assert balanced_bounds(bapo_sums(), {**BALANCE, "share": 0.1}) == pytest.approx((0.6, 1.2))
    assert balanced_bounds(None, BALANCE) == (0.6, 1.2)


def test_without_tokens_of_one_sign_there_is_nothing_to_look_for():
    for advantages in ([1.0] * 4, [-1.0] * 4, [0.0] * 4):
        assert balanced_bounds(bapo_sums(advantages=tensor(advantages)), BALANCE) == (0.6, 1.2)


@pytest.mark.parametrize("size", [1.0, 1.01, 0.99])
def test_a_mini_batch_in_which_no_bound_makes_a_difference_says_nothing(size):
    # As in a step's first mini-batch, whatever the share of its positive tokens.
    sums = bapo_sums(ratio=tensor([1.0] * 4), advantages=tensor([size, size, -1.0, -1.0]))
    assert balanced_bounds(sums, BALANCE) == (0.6, 1.2)


@given(st.integers(0, 2**32), st.floats(0.05, 0.95))
@settings(max_examples=60, deadline=None)
def test_found_bounds_reach_the_share_or_are_at_their_ends(seed, share):
    generator = torch.Generator().manual_seed(seed)
    ratio = torch.randn(4, 8, generator=generator, dtype=torch.float64).exp()
    advantages = torch.randn(4, 8, generator=generator, dtype=torch.float64)
    search = {**BALANCE, "share": share}
    low, high = balanced_bounds(gradient_sums(ratio, advantages, 3.0, search), search)
    assert 0.6 <= low <= 0.9 + 1e-9 and 1.2 <= high <= 3.0 + 1e-9
    positive = (ratio * advantages)[(advantages > 0) & (ratio <= high)].sum()
    negative = -(ratio * advantages)[(advantages < 0) & (ratio >= low) & (ratio <= 3.0)].sum()
    is_reached = positive >= share * (positive + negative) - 1e-9
    assert is_reached or (low, high) == pytest.approx((0.9, 3.0)) or (low, high) == (0.6, 1.2)


def test_the_bounds_of_a_mini_batch_come_from_the_sums_of_the_one_before():
    given_ = arguments([2.5, 1.0, 0.5, 0.7], [1.0, 0.25, -1.0, -1.5])
    reported = []

    def sums(own):
        reported.append(own)
        return reported[0] if len(reported) > 1 else None

    _, first = composed(**given_, clip="balanced", mini_batch_sums=sums)
    _, second = composed(**given_, clip="balanced", mini_batch_sums=sums)
    assert (first["actor/bound_low"], first["actor/bound_high"]) == (0.6, 1.2)
    assert (second["actor/bound_low"], second["actor/bound_high"]) == pytest.approx((0.75, 1.2))
    assert torch.equal(reported[0], bapo_sums())


def test_bounds_by_entropy_give_certain_tokens_room_below_and_uncertain_ones_above():
    hats = tensor([-1, -1 / 3, 0, 0.537243, 0.768622, 1])
    bounds = Bounds(0.8, 1.2, 3.0).by_entropy(hats)
    assert (1 - bounds.low)[0].tolist() == pytest.approx([0.4, 0.266667, 0.2, 0.2, 0.2, 0.2], abs=1e-6)
    assert (bounds.high - 1)[0].tolist() == pytest.approx([0.2, 0.2, 0.2, 0.307449, 0.353724, 0.4], abs=1e-6)
    given_ = arguments([1.3, 1.3, 0.7, 0.7], [1.0, 1.0, -1.0, -1.0])
    found = coefficients(given_, clip_scale="entropy_hat", entropy_hat=tensor([1.0, -1.0, -1.0, 1.0]))
    assert found == pytest.approx([1.3, 0, 0.7, 0])


def test_bounds_are_scaled_by_what_the_advantage_returns():
    given_ = arguments([1.22, 1.22, 0.78, 0.78], [1.0, 1.0, -1.0, -1.0])
    scales = {"clip_scale_low": tensor([1.0, 1.0, 1.3, 0.7]), "clip_scale_high": tensor([1.3, 0.7, 1.0, 1.0])}
    found = coefficients(given_, clip_scale="turn_signal", **scales)
    assert found == pytest.approx([1.22, 0, 0.78, 0])


def test_the_gate_changes_certain_tokens_near_ratio_1_and_uncertain_ones_away_from_it():
    # The zone ends half-way to the bounds, .9 and 1.1 where ĥ does not move them.
    hats = tensor([0.5, 0.5, -0.5, -0.5])
    given_ = arguments([1.02, 1.2, 1.02, 1.16], [1.0] * 4)
    found = coefficients(given_, entropy_gate=True, entropy_hat=hats)
    assert found == pytest.approx([1.02, 1.2 * 1.5, 1.02 * 0.5, 1.16])
    assert coefficients(given_, entropy_gate=True, entropy_hat=0 * hats) == coefficients(given_)


def test_the_future_factor_by_hand():
    log_ratio, mask = tensor([0.1, 0.0, -0.05]), torch.ones(1, 3)
    future = {"weight": 1.0, "discount": 0.5, "low": 1.0, "high": 1.2}
    assert future_factor(log_ratio, mask, future)[0].tolist() == pytest.approx([2.091442, 2, 2], abs=1e-6)
    given_ = arguments([math.exp(0.1), 1.0, math.exp(-0.05)], [1.0] * 3)
    found = coefficients(given_, future_ratio={"discount": 0.5})
    assert found == pytest.approx([2.091442 * math.exp(0.1), 2, 2 * math.exp(-0.05)], abs=1e-6)


def test_the_future_ratio_by_hand():
    log_ratio = tensor([0.1, -0.05, 0.2, 0.0])
    assert future_ratios(log_ratio, 1.0, 0.8, 1.2)[0].tolist() == pytest.approx([1.2, 1.161834, 1.2, 1], abs=1e-6)
    raw = future_ratios(log_ratio, 1.0, 0.0, 9.0)[0].tolist()
    assert raw == pytest.approx([1.284025, 1.161834, 1.221403, 1], abs=1e-6)


@given(st.integers(0, 2**32), st.integers(1, 20), st.floats(0.1, 1.0))
@settings(max_examples=40, deadline=None)
def test_the_future_ratio_is_the_discounted_sum_of_what_follows(seed, width, discount):
    values = torch.randn(1, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = future_ratios(values, discount, 0.0, math.inf).log()[0]
    for at in range(width):
        expected = sum(discount ** (later - at) * float(values[0, later]) for later in range(at, width))
        assert float(found[at]) == pytest.approx(expected, abs=1e-9)


def test_a_row_weight_scales_the_gradient_and_no_denominator():
    given_ = arguments([1.0, 1.0], [1.0, 1.0], "token-mean")
    found = gradient(composed, **given_, row_weight=tensor([0.25, 0.25]), is_replay=tensor([0, 0]))
    assert found[0].tolist() == pytest.approx([-0.125, -0.125])


def test_the_share_of_the_gradient_that_replayed_rows_have_is_logged():
    batch = random_batch(1, torch.float64, spread=0.0) | {"loss_agg_mode": "token-mean", "rollout_is_weights": None}
    is_replay = torch.tensor([1, 0, 0, 0, 0, 1]).unsqueeze(1).expand(6, 9)
    weight = torch.where(is_replay > 0, 0.5, 1.0)
    _, metrics = composed(**batch, row_weight=weight, is_replay=is_replay)
    sizes = (batch["advantages"].abs() * batch["response_mask"] * weight).sum(dim=1)
    assert metrics["actor/replay_share"] == pytest.approx(float((sizes[0] + sizes[5]) / sizes.sum()))


def test_tokens_that_the_old_policy_was_sure_of_have_no_gradient():
    given_ = arguments([1.0] * 3, [1.0] * 3, "token-mean")
    log_prob = tensor([0.95, 0.9, 0.5]).log()
    given_ |= {"old_log_prob": log_prob, "log_prob": log_prob.clone().requires_grad_()}
    assert gradient(composed, **given_, max_probability=0.9)[0].tolist() == pytest.approx([0, 0, -1 / 3])


def test_the_penalty_of_the_band_is_added():
    entropy = tensor([0.5, 1.5, 3.0]).requires_grad_()
    given_ = arguments([1.0] * 3, [0.0] * 3) | {"entropy": entropy, "past_entropy": torch.tensor(1.0)}
    loss, metrics = composed(**given_, entropy_band={"weight": 10.0, "low": 0.8, "high": 2.0})
    assert loss.item() == pytest.approx(13.0)
    assert torch.autograd.grad(loss, entropy)[0].tolist() == [[-10, 0, 10]]
    assert metrics["actor/entropy_outside_band"] == pytest.approx(2 / 3)
    given_["past_entropy"] = torch.tensor(math.nan)
    assert composed(**given_, entropy_band={})[0].item() == 0


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ({"ratio": "turns"}, "ratio='turns'; expected one of token, turn, sequence"),
        ({"clip": "none"}, "clip='none'; expected one of ppo, grad_preserving, cispo, balanced"),
        ({"clip_scale": 1}, "clip_scale=1; expected one of"),
        ({"clip_low": -0.1}, "clip_low=-0.1; expected a number of at least 0"),
        ({"clip_high": True}, "clip_high=True; expected a number"),
        ({"dual_clip": 0.5}, "dual_clip=0.5; expected more than 1, or 0"),
        ({"entropy_band": {"weigth": 1}}, "expected a mapping of some of weight, low, high"),
        ({"balance": {}}, "balance with clip=ppo"),
        ({"clip": "balanced", "clip_low": 0.1}, "clip=balanced, which looks for its bounds"),
        ({"entropy_hat": 1, "clip_scale": "turn_signal"}, r"got no \['clip_scale_low', 'clip_scale_high'\]"),
        ({"clip": "balanced"}, r"got no \['mini_batch_sums'\]"),
        ({"rato": "turn"}, "rato is not a known setting; expected one of"),
    ],
)
def test_settings_that_can_not_work_are_refused_by_name(blocks, message):
    with pytest.raises(ValueError, match=message):
        composed(**arguments([1.0], [1.0]), **blocks)


BLOCKS = [
    {},
    {"ratio": "turn", "clip_low": 0.003, "clip_high": 0.004},
    {"ratio": "sequence", "clip": "grad_preserving"},
    {"clip": "cispo", "clip_scale": "entropy_hat", "entropy_gate": True},
    {"clip_scale": "turn_signal", "future_ratio": {}, "max_probability": 0.9},
    {"clip": "balanced", "balance": {"share": 0.7}},
    {"entropy_band": {"weight": 3.0}},
]


@pytest.mark.parametrize("blocks", BLOCKS, ids=range(len(BLOCKS)))
@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-sum", "seq-mean-token-mean"])
def test_splitting_a_mini_batch_changes_neither_value_nor_gradient(blocks, mode):
    batch = random_batch(1, torch.float64, spread=0.3)
    generator = torch.Generator().manual_seed(7)
    names = ("entropy", "entropy_hat", "clip_scale_low", "clip_scale_high", "row_weight")
    batch |= {name: torch.rand(6, 9, generator=generator, dtype=torch.float64) for name in names}
    batch |= {"turn_ids": torch.tensor([1, 1, 1, 2, 2, 3, 3, 3, 4]) * batch["response_mask"]}
    actor = batch.pop("config")
    actor.global_batch_info.update(dp_size=1, batch_num_tokens=int(batch["response_mask"].sum()), global_batch_size=6)
    before = gradient_sums(torch.full((1, 2), 1.1), tensor([1.0, -1.5]), 3.0, BALANCE)
    reported = []

    def of(rows: slice) -> tuple[float, torch.Tensor]:
        own = {name: one[rows] for name, one in batch.items()}
        own |= {"loss_agg_mode": mode, "config": actor, "past_entropy": torch.tensor(0.5)}
        value, _ = composed(**own, **blocks, mini_batch_sums=lambda sums: reported.append(sums) or before)
        return value.item(), torch.autograd.grad(value, batch["log_prob"])[0]

    whole, first, second = of(slice(0, 6)), of(slice(0, 2)), of(slice(2, 6))
    assert whole[0] == pytest.approx(first[0] + second[0], abs=1e-12)
    assert whole[1] == pytest.approx(first[1] + second[1], abs=1e-12)
    if reported:
        assert reported[0] == pytest.approx(reported[1] + reported[2])
