"""`python loss_on_ranks.py OUT`: two mini-batches of a loss with columns on one and on two ranks of gloo.

The model is sharded as verl's FSDP2 engine does it, and its gradients after each mini-batch, with the bounds that the
balanced clip had, are written to OUT/<name>-<ranks>.pt.
"""

import sys
from pathlib import Path

import torch
import torch.distributed
import torch.multiprocessing
from tensordict import TensorDict
from torch.distributed.device_mesh import init_device_mesh
from verl.utils import tensordict_utils
from verl.utils.fsdp_utils import apply_fsdp2
from verl.workers.config import FSDPActorConfig

from arpo_verl.integration.training.mini_batch_sums import MiniBatchSums
from arpo_verl.integration.training.policy_loss import COLUMN, ChosenLoss, ppo_loss_with_more
from arpo_verl.losses.blocks.settings import LossSettings
from arpo_verl.tiny_world.model import make_model, make_tokenizer

PROMPT_TOKENS = 3
LOSSES = {
    "balanced": {"clip": "balanced", "balance": {"share": 0.9}},
    "columns": {"ratio": "turn", "clip_low": 0.1, "clip_scale": "turn_signal", "entropy_band": {"weight": 3.0}},
}
# Of each row, where tokens were sampled, and its advantage.
ROWS = [([1, 1, 0, 1], 1.0), ([1, 1, 0, 1, 1, 1], -2.0), ([1, 0, 1], -1.0), ([1, 1, 1, 1, 0, 1, 1], 0.5)]
MICRO_BATCHES = {1: [[0, 1], [2, 3]], 2: [[0], [1]]}
"""By the number of ranks, the rows of each micro-batch of a rank's own."""


def nested(rows: list[torch.Tensor]) -> torch.Tensor:
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def log_probs_and_entropies(model: torch.nn.Module, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return those of each position's next token, as verl's engine does, with nothing at the last."""
    logs = model(input_ids=ids.unsqueeze(0)).logits[0].log_softmax(-1)
    own = logs[:-1].gather(1, ids[1:, None])[:, 0]
    return torch.cat([own, own[:1] * 0]), -(logs.exp() * logs).sum(-1)


class Rows:
    """All rows, the same in every process."""

    def __init__(self, model: torch.nn.Module) -> None:
        generator = torch.Generator().manual_seed(5)
        self.ids = [torch.randint(0, 400, (PROMPT_TOKENS + len(mask),), generator=generator) for mask, _ in ROWS]
        self.scales = [torch.rand(len(mask), generator=generator) + 0.5 for mask, _ in ROWS]
        with torch.no_grad():
            now = [log_probs_and_entropies(model, ids)[0][PROMPT_TOKENS - 1 : -1] for ids in self.ids]
        self.old = [one + 0.4 * torch.randn(one.shape, generator=generator) for one in now]

    def data(self, rows: list[int], ranks: int) -> TensorDict:
        masks = [torch.tensor(ROWS[row][0]) for row in rows]
        begins = [torch.nn.functional.pad(mask, (1, 0)).diff().clamp(min=0).cumsum(0) * mask for mask in masks]
        scales = nested([self.scales[row] for row in rows])
        columns = {
            "turn_ids": nested(begins),
            "row_weight": nested([torch.full((len(ROWS[row][0]),), 1.0 + row) for row in rows]),
            "clip_scale_low": scales,
            "clip_scale_high": scales,
            "past_entropy": nested([torch.full((len(ROWS[row][0]),), 1.0) for row in rows]),
        }
        data = TensorDict(
            {
                "prompts": nested([self.ids[row][:PROMPT_TOKENS] for row in rows]),
                "responses": nested([self.ids[row][PROMPT_TOKENS:] for row in rows]),
                "response_mask": nested(masks),
                "loss_mask": nested(masks),
                "old_log_probs": nested([self.old[row] for row in rows]),
                "advantages": nested([torch.full((len(ROWS[row][0]),), ROWS[row][1]) for row in rows]),
                **{COLUMN.format(name): column for name, column in columns.items()},
            },
            batch_size=len(rows),
        )
        tokens = sum(sum(mask) for mask, _ in ROWS)
        tensordict_utils.assign_non_tensor(data, batch_num_tokens=tokens, dp_size=ranks, global_batch_size=len(ROWS))
        return data


def train(rank: int, ranks: int, out: str, name: str) -> None:
    """Be one rank of the training."""
    torch.set_num_threads(1)
    store = f"file://{out}/{name}-{ranks}.store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks)
    model = make_model(make_tokenizer(), seed=0)
    rows = Rows(model)
    mesh = init_device_mesh("cpu", (ranks,), mesh_dim_names=("fsdp",))
    apply_fsdp2(model, {"mesh": mesh}, {})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    needs = LossSettings.of(LOSSES[name]).needs
    chosen = ChosenLoss(name, "composed", LOSSES[name], (*needs.required, *needs.optional), needs.required)
    sizes = {"rollout_n": 2, "ppo_mini_batch_size": 4, "ppo_micro_batch_size_per_gpu": 1}
    config = FSDPActorConfig(strategy="fsdp2", **sizes)
    sums, gradients, bounds = MiniBatchSums(), [], []
    for _ in range(2):
        for micro_batch in MICRO_BATCHES[ranks]:
            of_rank = [row + rank * len(ROWS) // ranks for row in micro_batch]
            outputs = [log_probs_and_entropies(model, rows.ids[row]) for row in of_rank]
            output = {"log_probs": nested([one for one, _ in outputs]), "entropy": nested([one for _, one in outputs])}
            object.__setattr__(config.policy_loss, "loss_mode", "arpo.loss")
            data = rows.data(of_rank, ranks)
            loss, metrics = ppo_loss_with_more(config, output, data, mesh.get_group(), chosen=chosen, sums=sums)
            loss.backward()
            bounds += [
                float(metrics[f"actor/bound_{side}"].aggregate()) for side in ("low", "high") if name == "balanced"
            ]
        gradients.append({key: one.grad.full_tensor().clone() for key, one in model.named_parameters()})
        optimizer.step()
        optimizer.zero_grad()
    if rank == 0:
        torch.save({"gradients": gradients, "bounds": bounds}, f"{out}/{name}-{ranks}.pt")
    torch.distributed.destroy_process_group()


def main() -> None:
    for name in LOSSES:
        for ranks in MICRO_BATCHES:
            # Forked, so that verl is imported once.
            torch.multiprocessing.start_processes(train, (ranks, sys.argv[1], name), nprocs=ranks, start_method="fork")


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(exist_ok=True)
    main()
