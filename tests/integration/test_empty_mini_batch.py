"""verl's policy loss on a mini-batch whose leaves are all left out."""

import inspect
import math
import pickle
from functools import partial

import pytest
import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils
from verl.workers.config import FSDPActorConfig
from verl.workers.utils import losses

MODES = ["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean"]


def nested(values: list[torch.Tensor]) -> torch.Tensor:
    return torch.nested.as_nested_tensor(values, layout=torch.jagged)


def loss_of(function, mode: str, masks: list[list[int]], dp_size: int = 1) -> tuple[float, list[list[float]]]:
    """Return the loss of two leaves, with the KL and entropy losses, and its gradient, as the engine asks for them."""
    like = [torch.full((3,), -1.0) for _ in masks]
    columns = {
        "prompts": nested([torch.ones(2, dtype=torch.long) for _ in masks]),
        "responses": nested([torch.ones(3, dtype=torch.long) for _ in masks]),
        "response_mask": nested([torch.tensor(mask) for mask in masks]),
        "loss_mask": nested([torch.tensor(mask) for mask in masks]),
        "advantages": nested([torch.tensor([1.0, -1.0, 1.0]) for _ in masks]),
        "old_log_probs": nested(like),
        "ref_log_prob": nested(like),
    }
    data = TensorDict(columns, batch_size=len(masks))
    # verl 0.9.1, workers/engine/fsdp/transformer_impl.py, forward_backward_batch; trainer_base.py, _update_actor.
    tokens = data["loss_mask"].sum().item()
    tensordict_utils.assign_non_tensor(data, batch_num_tokens=tokens, dp_size=dp_size, global_batch_size=len(masks))
    logprobs = [torch.full((5,), -0.9).requires_grad_() for _ in masks]
    entropies = [torch.full((5,), 0.7) for _ in masks]
    sizes = {"rollout_n": 2, "ppo_mini_batch_size": 2, "ppo_micro_batch_size_per_gpu": 1}
    extra = {"use_kl_loss": True, "kl_loss_coef": 0.5, "entropy_coeff": 0.1, "loss_agg_mode": mode}
    output = {"log_probs": nested(logprobs), "entropy": nested(entropies)}
    # As verl's worker calls it.
    config = FSDPActorConfig(strategy="fsdp", **sizes, **extra)
    loss, metrics = partial(function, config=config)(model_output=output, data=data, dp_group=None)
    numbers = [metric.aggregate() if hasattr(metric, "aggregate") else metric for metric in metrics.values()]
    gradients = [one.tolist() for one in torch.autograd.grad(loss, logprobs)]
    return math.nan if any(math.isnan(float(number)) for number in numbers) else loss.item(), gradients


EMPTY = [[0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("dp_size", [1, 2])
@pytest.mark.parametrize("mode", MODES)
def test_a_mini_batch_without_a_leaf_to_train_on_has_the_loss_0_and_no_gradient(mode, dp_size):
    assert loss_of(losses.ppo_loss, mode, EMPTY, dp_size) == (0.0, [[0.0] * 5] * 2)


def test_verls_own_loss_of_an_empty_mini_batch_is_not_a_number():
    """When this fails, verl no longer needs `arpo_patches.empty_mini_batch`."""
    found = {mode: loss_of(inspect.unwrap(losses.ppo_loss), mode, EMPTY)[0] for mode in MODES}
    assert [mode for mode, loss in found.items() if math.isnan(loss)] == ["token-mean"]


def test_the_loss_can_still_be_sent_to_another_process():
    assert pickle.loads(pickle.dumps(losses.ppo_loss)) is losses.ppo_loss


@pytest.mark.parametrize("mode", MODES)
def test_other_mini_batches_have_verls_own_loss(mode):
    masks = [[1, 1, 0], [0, 0, 0]]
    ours, stock = (loss_of(one, mode, masks) for one in (losses.ppo_loss, inspect.unwrap(losses.ppo_loss)))
    assert ours == stock
    assert ours[0] != 0 and any(ours[1][0]) and not any(ours[1][1])
