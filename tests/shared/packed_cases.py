"""`python packed_cases.py OUT [CASE ...]`: random trees packed and as rows in verl's engine, however it computes.

OUT/results.json gets for each case by how much the two differ at worst, and what packing has saved.
"""

import json
import random
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import flash_on_cpu
import packed_engine
import torch
import torch.multiprocessing
from packed_engine import batch_of, compute, infer, make_engine, random_leaves, save_model, worst
from verl.workers.config import PolicyLossConfig
from verl.workers.utils.padding import no_padding_2_padding

from arpo_verl.integration.packing import engine
from arpo_verl.packing.depth_first import DepthFirst
from arpo_verl.packing.pack import Pack

BUDGETS = (10_000, 400, 140)
"""Tokens of a micro-batch: all rows together, a few trees, less than a tree."""


@dataclass(frozen=True)
class Case:
    """A way in which verl's engine computes."""

    kind: str = "qwen2"
    model_type: str = "language_model"
    of_config: Mapping[str, Any] = field(default_factory=dict)
    of_model: Mapping[str, Any] = field(default_factory=dict)
    of_engine: Mapping[str, Any] = field(default_factory=dict)
    of_loss: Mapping[str, Any] = field(default_factory=dict)
    said: Mapping[str, Any] = field(default_factory=dict)
    ranks: int = 1
    has_flash: bool = False


NO_PADDING = {"use_remove_padding": True}
FUSED = {"use_fused_kernels": True, "fused_kernel_options": {"impl_backend": "torch"}}
CHUNKS = {
    **{"entropy_checkpointing": True, "entropy_from_logits_with_chunking": True, "entropy_from_logits_chunk_size": 64},
    **NO_PADDING,
}
STATIC = {"pad_to_length": True, "pad_to_length_bucket": 64, **NO_PADDING}
CASES = {
    **{f"{kind}, padded rows": Case(kind) for kind in packed_engine.MODELS},
    **{f"{kind}, rows without padding": Case(kind, of_engine=NO_PADDING) for kind in packed_engine.MODELS},
    "no gradient checkpointing": Case(of_model={"enable_gradient_checkpointing": False}),
    **{
        f"loss by {mode}": Case(of_loss={"loss_agg_mode": mode, "loss_scale_factor": 128})
        for mode in ("token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")
    },
    "gspo": Case(of_loss={"policy_loss": PolicyLossConfig(loss_mode="gspo"), "loss_agg_mode": "seq-mean-token-mean"}),
    "temperature": Case("qwen3", said={"temperature": 0.7}),
    "temperature of each row": Case(said={"temperature": "tensor"}),
    "micro-batches of four rows": Case(said={"use_dynamic_bsz": False, "micro_batch_size_per_gpu": 4}),
    "sum of squares": Case("qwen3", said={"calculate_sum_pi_squared": True}),
    "length that is padded": Case("qwen3", of_engine=STATIC),
    "entropy in chunks, checkpointed": Case("qwen3", of_engine=CHUNKS),
    # verl's kernels take FSDP2's weights only where they are those of the embeddings too.
    "fused kernels": Case(of_config={"tie_word_embeddings": True}, of_model=FUSED, of_engine=NO_PADDING),
    "LoRA": Case(of_model={"lora_rank": 8, "lora_alpha": 16}),
    "sliding window": Case(
        of_config={"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0}, of_engine=NO_PADDING
    ),
    "values": Case(model_type="value_model"),
    "two ranks": Case(ranks=2),
    "flash attention": Case("qwen3", of_engine=NO_PADDING, has_flash=True),
    "flash attention, two ranks of a sequence": Case(
        "qwen3", of_engine={"ulysses_sequence_parallel_size": 2, **NO_PADDING}, ranks=2, has_flash=True
    ),
}


def value_loss(model_output: Any, data: Any, dp_group: Any = None) -> tuple[torch.Tensor, dict[str, Any]]:
    """Return how far values are from noise."""
    values = no_padding_2_padding(model_output["values"], data)
    wanted = data.select("noise", "response_mask").to_padded_tensor()
    squares = (values - wanted["noise"]).square() * wanted["response_mask"]
    return squares.sum() / data["batch_num_tokens"], {}


def said_of(case: Case, rows: int) -> dict[str, Any]:
    if case.said.get("temperature") == "tensor":
        return {**case.said, "temperature": torch.full((rows,), 0.8)}
    return dict(case.said)


def run(case: Case, folder: Path, rank: int = 0) -> dict[str, float]:
    """Return the worst differences of a case."""
    model = save_model(folder / f"model-{case.kind}-{len(case.of_config)}-{rank}", case.kind, **case.of_config)
    made = make_engine(model, case.model_type, case.of_model, case.of_engine)
    if case.has_flash:
        flash_on_cpu.use(made.module)
    of_sequence = int(case.of_engine.get("ulysses_sequence_parallel_size", 1))
    chance = random.Random(7 + rank // of_sequence)
    loss = value_loss if case.model_type == "value_model" else packed_engine.actor_loss(**case.of_loss)
    found: dict[str, float] = {}
    tokens = [0, 0]
    for budget in BUDGETS:
        leaves = random_leaves(chance, prompts=3)
        leaves = leaves[: len(leaves) // 4 * 4] if case.ranks == 1 else leaves[:8]
        data = batch_of(leaves, seed=budget)
        said = {"max_token_len_per_gpu": budget, **said_of(case, len(leaves))}
        rows, packed = (compute(made, data.clone(), mode, loss, **said) for mode in ("off", "on"))
        for name, one in worst(packed, rows).items():
            found[name] = max(found.get(name, 0.0), one)
        tokens[0] += packed.metrics["pack/row_tokens"][0]
        tokens[1] += packed.metrics["pack/computed_tokens"][0]
    return {**found, "factor": tokens[0] / tokens[1]}


def without_the_repeated_token() -> Any:
    return mock.patch.object(DepthFirst, "shared", property(lambda walk: list(walk.common)))


def with_positions_in_packed_order() -> Any:
    stock = engine._packed

    def packed(micro_batch: Any, pack: Any) -> Any:
        batch = stock(micro_batch, pack)
        offsets = batch["position_ids"].offsets()
        batch["position_ids"] = torch.nested.nested_tensor_from_jagged(torch.arange(int(offsets[-1])), offsets)
        return batch

    return mock.patch.object(engine, "_packed", packed)


def with_a_key_of_another_leaf() -> Any:
    stock = Pack.keys

    def keys(pack: Pack) -> torch.Tensor:
        places = stock(pack)
        shared = [run for run in pack.runs if run.own < run.length]
        if shared:
            begin = sum(run.length for run in pack.runs[: pack.runs.index(shared[-1])])
            places[begin] = len(pack) - 1
        return places

    return mock.patch.object(Pack, "keys", keys)


WRONG: dict[str, Callable[[], Any]] = {
    "a fork does not repeat its token": without_the_repeated_token,
    "positions are those of the packed sequence": with_positions_in_packed_order,
    "a run sees a key of another leaf": with_a_key_of_another_leaf,
}
"""Ways to pack that are wrong."""


APART = "a rank that can't pack beside one that can"


def ranks_of(name: str) -> int:
    return CASES[name].ranks if name in CASES else 2 if name == APART else 1


def run_wrong(name: str, folder: Path) -> dict[str, Any]:
    """Return how wrong the numbers are without the trial, and what the trial says of it."""
    model = save_model(folder / "model", "qwen2")
    data = batch_of(random_leaves(random.Random(7), prompts=3))
    loss = packed_engine.actor_loss()
    of_rows = make_engine(model)
    rows = compute(of_rows, data.clone(), "off", loss)
    with WRONG[name]():
        tried = make_engine(model)
        try:
            infer(tried, data, "on")
            said = ""
        except ValueError as error:
            said = str(error)
        with mock.patch.object(engine, "reason_of_trial", lambda *_: None):
            found = worst(compute(make_engine(model), data.clone(), "on", loss), rows)
    return {**found, "said": said}


def run_apart(folder: Path, rank: int) -> dict[str, Any]:
    """Return what two ranks do of which the second has rows with different temperatures."""
    made = make_engine(save_model(folder / f"model-{rank}", "qwen2"))
    leaves = random_leaves(random.Random(7), prompts=3)[:8]
    data = batch_of(leaves)
    temperatures = torch.full((len(leaves),), 0.8)
    temperatures[0] += 0.1 * rank
    loss = packed_engine.actor_loss()
    computed = compute(made, data.clone(), "auto", loss, temperature=temperatures)
    try:
        infer(made, data, "on", temperature=temperatures)
        said = ""
    except ValueError as error:
        said = str(error)
    return {"is_packed": "pack/factor" in computed.metrics, "said": said}


def run_rank(rank: int, name: str, folder: Path) -> None:
    """Be a rank of a case, or of a wrong way to pack."""
    torch.set_num_threads(1)
    packed_engine.one_rank(folder, rank, ranks_of(name))
    if name == APART:
        found: dict[str, Any] = run_apart(folder, rank)
    else:
        found = run(CASES[name], folder, rank) if name in CASES else run_wrong(name, folder)
    (folder / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def main(out: Path, chosen: list[str]) -> None:
    torch.set_num_threads(1)
    results = {}
    for number, name in enumerate(chosen or [*CASES, *WRONG, APART]):
        start, folder = time.monotonic(), out / str(number)
        folder.mkdir(parents=True)
        ranks = ranks_of(name)
        # A process of its own, for verl patches models' classes; forked, so that verl is imported once.
        torch.multiprocessing.start_processes(run_rank, (name, folder), nprocs=ranks, start_method="fork")
        results[name] = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]
        print(f"{name:45} {time.monotonic() - start:5.1f} s {results[name]}", flush=True)
    (out / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
