"""verl's FSDP2 engine on tiny models, and batches of random trees, computed packed and as rows."""

import functools
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from tensordict import TensorDict
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from verl.trainer.config import CheckpointConfig
from verl.utils import tensordict_utils
from verl.workers.config import ActorConfig, FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
from verl.workers.engine import EngineRegistry
from verl.workers.utils.losses import ppo_loss
from verl.workers.utils.padding import response_from_nested

from arpo_verl.integration.packing.engine import PACK_TREES
from arpo_verl.tiny_world.model import make_tokenizer

VOCABULARY = 250
"""Ids that rows are made of."""
MODELS: dict[str, tuple[type, type]] = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
FULL_PRECISION = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}


def one_rank(folder: Path, rank: int = 0, ranks: int = 1) -> None:
    """Be a rank of gloo, as verl's workers are."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK="0")
    store = f"file://{folder}/store-{ranks}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks)


def save_model(folder: Path, kind: str, **settings: Any) -> Path:
    """Write a model of random weights, with more heads for queries than for keys."""
    tokenizer = make_tokenizer()
    config, model = MODELS[kind]
    torch.manual_seed(0)
    chosen = {
        **{"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096},
        **({"head_dim": 16} if kind == "qwen3" else {}),
        **{"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None},
        **{"pad_token_id": tokenizer.pad_token_id, "initializer_range": 0.12, "tie_word_embeddings": False},
        **settings,
    }
    made: PreTrainedModel = model(config(**chosen))
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_engine(
    model: Path, model_type: str = "language_model", of_model: Mapping[str, Any] = {}, of_engine: Mapping[str, Any] = {}
) -> Any:
    """Return verl's own choice of engine for a model, in float32."""
    model_config = HFModelConfig(
        path=str(model),
        use_remove_padding=of_engine.get("use_remove_padding", False),
        **{"override_config": {"attn_implementation": "sdpa"}, **of_model},
    )
    model_config.model_type = model_type
    settings = {"strategy": "fsdp2", "mixed_precision": FULL_PRECISION, "use_torch_compile": False, **of_engine}
    engine = EngineRegistry.new(
        model_type=model_type,
        backend=settings["strategy"],
        model_config=model_config,
        engine_config=FSDPEngineConfig(**settings),
        optimizer_config=FSDPOptimizerConfig(lr=1e-3),
        checkpoint_config=CheckpointConfig(),
    )
    engine.initialize()
    return engine


@dataclass
class Leaf:
    """A row of a random tree."""

    prompt: list[int]
    response: list[int]
    mask: list[int]


def random_tree(chance: random.Random, leaves: int, depth: int = 5) -> list[Leaf]:
    """Return leaves that fork anywhere between their segments, of which every second one is a tool's."""
    prompt = _tokens(chance, 3, 30)
    rows = [[_tokens(chance, 1, 25)]]
    while len(rows) < leaves:
        kind = chance.random()
        if kind < 0.25:
            rows.append([_tokens(chance, 1, 25)])
        elif kind < 0.7:
            parent = chance.choice(rows)
            rows.append([*parent[: chance.randint(1, len(parent))], _tokens(chance, 1, 25)])
        else:
            row = chance.choice(rows)
            if len(row) < depth:
                row.append(_tokens(chance, 1, 25))
    return [
        Leaf(
            prompt,
            [token for segment in row for token in segment],
            [1 - number % 2 for number, segment in enumerate(row) for _ in segment],
        )
        for row in rows
    ]


def _tokens(chance: random.Random, least: int, most: int) -> list[int]:
    return [chance.randrange(VOCABULARY) for _ in range(chance.randint(least, most))]


def random_leaves(chance: random.Random, prompts: int, padding: int = 2) -> list[Leaf]:
    """Return the leaves of several trees, some excluded, and padding rows as verl makes them, in any order."""
    leaves = [leaf for _ in range(prompts) for leaf in random_tree(chance, chance.randint(1, 8))]
    for leaf in leaves:
        if chance.random() < 0.15:
            leaf.mask = [0] * len(leaf.mask)
    leaves += [Leaf([1] * 127, [1], [0]) for _ in range(padding)]
    chance.shuffle(leaves)
    return leaves


def nested(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.nested.as_nested_tensor(list(rows), layout=torch.jagged)


def batch_of(leaves: Sequence[Leaf], seed: int = 0) -> TensorDict:
    """Return rows as verl hands them to its engine, with advantages and the noise of older log-probabilities."""
    generator = torch.Generator().manual_seed(seed)
    masks = [torch.tensor(leaf.mask) for leaf in leaves]
    rows = [torch.tensor(leaf.prompt + leaf.response) for leaf in leaves]
    columns = {
        "prompts": nested([torch.tensor(leaf.prompt) for leaf in leaves]),
        "responses": nested([torch.tensor(leaf.response) for leaf in leaves]),
        "response_mask": nested(masks),
        "loss_mask": nested(masks),
        "input_ids": nested(rows),
        "position_ids": nested([torch.arange(len(row)) for row in rows]),
        "advantages": nested([torch.randn(1, generator=generator) * mask.float() for mask in masks]),
        "noise": nested([torch.randn(len(mask), generator=generator) for mask in masks]),
    }
    return TensorDict(columns, batch_size=[len(leaves)])


@dataclass(frozen=True)
class Computed:
    """What an engine makes of a batch."""

    outputs: dict[str, torch.Tensor]
    """Of the response's tokens, row after row."""
    loss: float
    gradients: dict[str, torch.Tensor]
    metrics: dict[str, Any]


def actor_loss(**settings: Any) -> Any:
    """Return verl's loss with entropy and KL terms."""
    defaults = {"rollout_n": 4, "ppo_micro_batch_size_per_gpu": 4, "entropy_coeff": 0.01}
    config = ActorConfig(
        **{"strategy": "fsdp2", **defaults, "use_kl_loss": True, "kl_loss_coef": 0.05, **settings},
    )
    return functools.partial(ppo_loss, config=config)


def asked(engine: Any, data: TensorDict, mode: str, **settings: Any) -> TensorDict:
    """Return a batch with what verl's worker says of it."""
    longest = int(data["input_ids"].offsets().diff().max())
    said = {
        "temperature": 1.0,
        "use_remove_padding": engine.use_remove_padding,
        "use_dynamic_bsz": True,
        "use_fused_kernels": engine.model_config.use_fused_kernels,
        "calculate_entropy": True,
        "global_batch_size": len(data),
        PACK_TREES: mode,
        **settings,
    }
    said["max_token_len_per_gpu"] = max(said.get("max_token_len_per_gpu", 10_000), longest)
    data = data.clone()
    for name, value in said.items():
        if isinstance(value, torch.Tensor):  # one for each row
            data[name] = value
        else:
            tensordict_utils.assign_non_tensor(data, **{name: value})
    return data


def infer(engine: Any, data: TensorDict, mode: str, **settings: Any) -> dict[str, torch.Tensor]:
    """Return what a pass without gradients says of the response's tokens."""
    with engine.eval_mode():
        output = engine.infer_batch(asked(engine, data, mode, **settings))["model_output"]
    return {name: response_from_nested(one, data["response_mask"]).values() for name, one in output.items()}


def compute(engine: Any, data: TensorDict, mode: str, loss: Any, **settings: Any) -> Computed:
    """Return outputs, loss and gradients of a batch whose older log-probabilities are the engine's own with noise."""
    rows = infer(engine, data, "off", **settings)
    offsets, noise = data["response_mask"].offsets(), data["noise"].values()
    if "log_probs" in rows:
        for name, scale in (("old_log_probs", 0.2), ("ref_log_prob", -0.3)):
            shifted = rows["log_probs"] + scale * noise
            data[name] = torch.nested.nested_tensor_from_jagged(shifted, offsets)
    with engine.train_mode():
        engine.optimizer_zero_grad()
        output = engine.forward_backward_batch(asked(engine, data, mode, **settings), loss)
        gradients = {
            name: getattr(one.grad, "full_tensor", lambda grad=one.grad: grad)().clone()
            for name, one in engine.module.named_parameters()
            if one.grad is not None
        }
    return Computed(infer(engine, data, mode, **settings), sum(output["loss"]), gradients, output["metrics"])


def worst(packed: Computed, rows: Computed) -> dict[str, float]:
    """Return by how much packed rows differ from rows: the largest difference over the largest value."""
    assert packed.outputs.keys() == rows.outputs.keys() and packed.gradients.keys() == rows.gradients.keys() != set()
    found = {name: _relative(packed.outputs[name], rows.outputs[name]) for name in rows.outputs}
    found["loss"] = abs(packed.loss - rows.loss) / max(abs(rows.loss), 1e-3)
    found["gradient"] = max(_relative(packed.gradients[name], one) for name, one in rows.gradients.items())
    return found


def _relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max().clamp(min=1e-9))
