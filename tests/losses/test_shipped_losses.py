"""The losses that ship: gradients and values worked out by hand, and verl's own where they have to agree."""

import math

import pytest
import torch
from verl.trainer.ppo.core_algos import compute_policy_loss_vanilla
from verl.workers.config import FSDPActorConfig

from arpo_verl.losses.blocks.band import band_excess
from arpo_verl.losses.entropy_band import entropy_band
from arpo_verl.losses.grad_preserving import grad_preserving


def config(**settings) -> FSDPActorConfig:
    sizes = {"rollout_n": 2, "ppo_mini_batch_size": 2, "ppo_micro_batch_size_per_gpu": 1}
    return FSDPActorConfig(strategy="fsdp", **sizes, **settings)


def arguments(ratios: list[float], advantages: list[float]) -> dict:
    log_prob = torch.tensor([ratios], dtype=torch.float64).log().requires_grad_()
    return {
        "old_log_prob": torch.zeros_like(log_prob),
        "log_prob": log_prob,
        "advantages": torch.tensor([advantages], dtype=torch.float64),
        "response_mask": torch.ones(1, len(ratios), dtype=torch.bool),
        "loss_agg_mode": "token-sum",
        "config": config(),
    }


def coefficients(loss, given: dict) -> list[float]:
    """Return what multiplies A ∇log π in the gradient of minus the loss."""
    value, _ = loss(**given)
    [gradient] = torch.autograd.grad(value, given["log_prob"])
    return (-gradient / given["advantages"])[0].tolist()


@pytest.mark.parametrize(
    ("sign", "vanilla", "ours"),
    [(1.0, [0.5, 1.1, 0, 0], [0.5, 1.1, 1.2, 1.2]), (-1.0, [0, 1.1, 1.5, 0], [0, 1.1, 1.5, 0])],
)
def test_the_gradient_above_the_bound_is_that_at_the_bound_for_positive_advantages(sign, vanilla, ours):
    given = arguments([0.5, 1.1, 1.5, 4.0], [2 * sign] * 4)
    assert coefficients(compute_policy_loss_vanilla, given) == pytest.approx(vanilla)
    assert coefficients(grad_preserving, given) == pytest.approx(ours)


@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-sum", "seq-mean-token-mean"])
@pytest.mark.parametrize("bounds", [{}, {"clip_ratio_low": 0.1, "clip_ratio_high": 0.5, "clip_ratio_c": 2.0}])
def test_the_value_and_the_gradient_elsewhere_are_ppos(bounds, mode):
    generator = torch.Generator().manual_seed(0)
    old = torch.randn(6, 9, generator=generator)
    log_prob = (old + torch.randn(6, 9, generator=generator)).requires_grad_()
    advantages = torch.randn(6, 9, generator=generator)
    mask = torch.rand(6, 9, generator=generator) < 0.7
    given = (old, log_prob, advantages, mask, mode, config(**bounds), torch.rand(6, 9, generator=generator))
    (one, metrics), (other, theirs) = grad_preserving(*given), compute_policy_loss_vanilla(*given)
    assert one.item() == other.item()
    assert {name: metrics[name] for name in theirs} == pytest.approx(theirs)
    high = bounds.get("clip_ratio_high", 0.2)
    is_above = ((log_prob - old).exp() > 1 + high) & (advantages > 0) & mask
    [ours], [verls] = (torch.autograd.grad(loss, log_prob) for loss in (one, other))
    assert torch.equal(ours[~is_above], verls[~is_above])
    assert bool((ours[is_above] != 0).all()) and not bool(verls[is_above].any())


def test_the_excess_is_zero_inside_of_the_band():
    # h = 1, a band of 0.8 to 2: entropies of 0.5, 1.5 and 3 are 0.3 below, inside, and 1 above.
    excess = band_excess(torch.tensor([0.5, 1.5, 3.0]), torch.tensor(1.0), low=0.8, high=2.0)
    assert excess.tolist() == pytest.approx([0.3, 0.0, 1.0])


def banded(entropy: torch.Tensor, past: float, **settings):
    given = arguments([1.0] * entropy.shape[1], [0.0] * entropy.shape[1])
    return entropy_band(**given, entropy=entropy, past_entropy=torch.tensor(past), **settings)


def test_the_penalty_has_a_gradient_exactly_outside_of_the_band_and_pulls_inside():
    entropy = torch.tensor([[0.5, 1.5, 3.0]], requires_grad=True)
    loss, metrics = banded(entropy, 1.0, weight=10.0, low=0.8, high=2.0)
    assert loss.item() == pytest.approx(10 * 1.3)
    [gradient] = torch.autograd.grad(loss, entropy)
    assert gradient.tolist() == [[-10, 0, 10]]
    assert metrics["actor/entropy_outside_band"] == pytest.approx(2 / 3)


def test_without_a_past_the_loss_is_the_base():
    loss, metrics = banded(torch.tensor([[0.5, 9.0]], requires_grad=True), math.nan)
    assert loss.item() == 0 and metrics["actor/entropy_outside_band"] == 0


def test_the_base_of_the_penalty_is_any_loss_that_verl_knows():
    given = arguments([4.0], [1.0]) | {"entropy": torch.ones(1, 1), "past_entropy": torch.tensor(1.0)}
    cispo = entropy_band(**given, base="cispo")[0]
    [gradient] = torch.autograd.grad(cispo, given["log_prob"])
    assert gradient.item() == pytest.approx(-1.2)
    with pytest.raises(ValueError, match="Unsupported loss mode: vanila"):
        entropy_band(**given, base="vanila")


@pytest.mark.parametrize("loss", ["grad_preserving", "entropy_band"])
@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-mean"])
def test_splitting_a_mini_batch_changes_nothing(loss, mode):
    generator = torch.Generator().manual_seed(1)
    tensors = [torch.randn(4, 5, generator=generator, dtype=torch.float64) for _ in range(3)]
    entropy = torch.rand(4, 5, generator=generator, dtype=torch.float64)
    mask = torch.rand(4, 5, generator=generator) < 0.7
    actor = config()
    actor.global_batch_info.update(dp_size=1, batch_num_tokens=int(mask.sum()), global_batch_size=4)

    def of(rows: slice) -> float:
        given = ([one[rows] for one in tensors], mask[rows], mode, actor)
        old, log_prob, advantages = given[0]
        if loss == "grad_preserving":
            return grad_preserving(old, log_prob, advantages, *given[1:])[0].item()
        extras = {"entropy": entropy[rows], "past_entropy": torch.tensor(0.5), "weight": 3.0}
        return entropy_band(old, log_prob, advantages, *given[1:], **extras)[0].item()

    assert of(slice(0, 4)) == pytest.approx(of(slice(0, 1)) + of(slice(1, 4)))
