"""What packing does not cover, each with its reason, and what it does cover without one."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from packed_engine import Leaf, batch_of
from tensordict import TensorDict
from transformers import LlamaConfig, LlamaForCausalLM
from verl.utils import tensordict_utils

from arpo_verl.integration.packing.attention import ChosenAttention
from arpo_verl.integration.packing.reasons import reason_of_batch, reason_of_model

LEAVES = [Leaf([1, 2], [3, 4], [1, 1]), Leaf([1, 2], [3, 5, 6], [1, 0, 1])]


def batch(**said: Any) -> TensorDict:
    data = batch_of(LEAVES)
    for name, value in {"temperature": 1.0, **said}.items():
        if isinstance(value, torch.Tensor):
            data[name] = value
        else:
            tensordict_utils.assign_non_tensor(data, **{name: value})
    return data


def nested(*rows: list) -> torch.Tensor:
    return torch.nested.as_nested_tensor([torch.tensor(row) for row in rows], layout=torch.jagged)


def images(*of_rows: dict) -> TensorDict:
    data = batch()
    tensordict_utils.assign_non_tensor_stack(data, "multi_modal_inputs", list(of_rows))
    return data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (batch(), None),
        (batch(temperature=torch.full((2,), 0.7)), None),
        (images({}, {}), None),
        (batch(temperature=torch.tensor([0.7, 0.8])), "rows have different temperatures"),
        (batch(distillation_use_topk=True), "distillation reads the logits of rows"),
        (batch(distillation_only=True), "distillation reads the logits of rows"),
        (images({}, {"pixel_values": torch.ones(1)}), "rows have images or other inputs beside tokens"),
        (batch(routed_experts=torch.zeros(2, 3)), "routes of experts are replayed row by row"),
        (batch(force_group_size=2), "rows have to stay together in groups"),
        (
            batch(position_ids=nested([0, 1, 2, 3], [1, 2, 3, 4, 5])),
            "the positions of a row's tokens are not their places in it",
        ),
    ],
)
def test_a_batch_that_packing_does_not_cover_has_a_reason(data, reason):
    assert reason_of_batch(data) == reason


def test_positions_of_images_are_no_places():
    data = batch()
    rows = [torch.arange(size).expand(4, size) for size in (4, 5)]
    data["position_ids"] = torch.nested.as_nested_tensor([row.T for row in rows], layout=torch.jagged)
    assert reason_of_batch(data) == "positions have several dimensions, as those of images do"


def model(**settings: Any) -> LlamaForCausalLM:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    made = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=10, attn_implementation="sdpa"))
    for name, value in settings.items():
        setattr(made.config, name, value)
    return made


def reason_of(made: torch.nn.Module, is_training: bool = True) -> str | None:
    return reason_of_model(made, ChosenAttention(made), is_training)


def with_part(name: str, part: Any) -> LlamaForCausalLM:
    made = model()
    setattr(made.model.layers[0].self_attn, name, part)
    return made


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (model(), None),
        (model(_attn_implementation="eager"), None),
        (model(_attn_implementation="flash_attention_2", attn_logit_softcapping=30.0), None),
        (model(layer_types=["full_attention", "sliding_attention"]), None),
        (
            model(_attn_implementation="flex_attention"),
            "attention flex_attention is none of eager, sdpa, flash_attention_2, flash_attention_3",
        ),
        (
            model(layer_types=["full_attention", "linear_attention"]),
            "layers of the kind linear_attention are no attention by runs",
        ),
        (model(attention_dropout=0.1), "dropout drops other values for each row"),
        (with_part("drop", torch.nn.Dropout(0.1)), "dropout drops other values for each row"),
        (model(attn_logit_softcapping=30.0), "the scaled dot product has no softcap; flash attention has"),
        (
            with_part("sinks", torch.nn.Parameter(torch.zeros(1))),
            "the scaled dot product has no sinks; flash attention 3 has",
        ),
        (with_part("_supports_attention_backend", False), "the model computes its attention itself"),
        (
            torch.nn.Linear(2, 2),
            "attention of its own is none of eager, sdpa, flash_attention_2, flash_attention_3",
        ),
    ],
)
def test_a_model_that_packing_does_not_cover_has_a_reason(made, reason):
    assert reason_of(made) == reason


def test_dropout_matters_in_training_alone():
    assert reason_of(model(attention_dropout=0.1), is_training=False) is None


def test_a_model_gets_its_own_attention_back():
    made = model()
    attention = ChosenAttention(made)
    attention.use(SimpleNamespace())
    assert made.config._attn_implementation == "arpo_runs_dense"
    attention.use(None)
    assert made.config._attn_implementation == "sdpa"
