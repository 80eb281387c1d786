"""What computing shared tokens once saves: `python tests/benchmarks/packed_update.py [--device cuda] [--size 0.5b]`.

Trees of one shape after the other are computed forward and backward as rows, laid end to end without padding, and
packed, by the same model with the same attention, in micro-batches of the same budget, in turns. Medians; the ratio is
that of neighbours. Needs torch and transformers, and nothing of verl's.

On a GPU the attention is flash attention's kernel for sequences of several lengths, where it is installed, else
PyTorch's scaled dot product. `--attention flex` computes FlexAttention with a mask over the sequence, to compare;
PyTorch has no backward pass of it on a CPU. Seconds are the process's own CPU seconds on a CPU, where others may use
the cores too, and elapsed ones on a GPU.
"""

import argparse
import multiprocessing
import random
import resource
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from transformers import AttentionInterface, Qwen2Config, Qwen2ForCausalLM
from transformers.utils import is_flash_attn_2_available

from arpo_verl.packing import runs
from arpo_verl.packing.depth_first import DepthFirst, split
from arpo_verl.packing.flash import flash_by_runs
from arpo_verl.packing.pack import Pack, Run
from arpo_verl.packing.runs import Runs
from arpo_verl.packing.sdpa import sdpa_by_runs

Row = np.ndarray
compiled_flex = torch.compile(flex_attention)
VOCABULARY = 4096


@dataclass(frozen=True)
class Shape:
    """Trees of one kind: leaves of some turns, each a number of sampled tokens and a result."""

    name: str
    prompt: int
    turn: int
    result: int
    turns: int
    leaves: int
    roots: int

    def tree(self, chance: random.Random) -> list[Row]:
        """Return the leaves; those that are no roots fork after a result of any leaf before them."""

        def tokens(median: int) -> list[int]:
            return [chance.randrange(VOCABULARY) for _ in range(max(1, round(median * chance.uniform(0.5, 1.5))))]

        def turn(is_last: bool) -> list[int]:
            return tokens(self.turn) + ([] if is_last else tokens(self.result))

        prompt = tokens(self.prompt)
        leaves: list[list[list[int]]] = []
        for number in range(self.leaves):
            count = chance.randint(max(1, self.turns - 1), self.turns + 1)
            kept: list[list[int]] = []
            if number >= self.roots:
                parent = chance.choice(leaves)
                kept = parent[: chance.randint(0, len(parent) - 1)]
                count = max(count, len(kept) + 1)
            leaves.append([*kept, *(turn(place == count - 1) for place in range(len(kept), count))])
        return [np.array(prompt + [token for part in leaf for token in part]) for leaf in leaves]


SHAPES = [
    Shape("reasoning, 16 roots", prompt=400, turn=250, result=150, turns=3, leaves=16, roots=16),
    Shape("reasoning, 8 roots", prompt=400, turn=250, result=150, turns=3, leaves=16, roots=8),
    Shape("reasoning, 4 roots", prompt=400, turn=250, result=150, turns=3, leaves=16, roots=4),
    Shape("deep search, 8 roots", prompt=500, turn=150, result=300, turns=6, leaves=16, roots=8),
    Shape("deep search, 4 roots", prompt=500, turn=150, result=300, turns=6, leaves=16, roots=4),
    Shape("small, 4 roots", prompt=20, turn=15, result=8, turns=2, leaves=8, roots=4),
    Shape("small, all roots", prompt=20, turn=15, result=8, turns=2, leaves=8, roots=8),
    Shape("no prompt to speak of, all roots", prompt=4, turn=250, result=150, turns=3, leaves=16, roots=16),
]
SIZES = {
    "small": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 2, "num_attention_heads": 8},
    "0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14},
    "1.5b": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12},
}


def varlen(module, query, key, value, attention_mask=None, **options):
    states = (state[0].transpose(0, 1) for state in (query, key, value))
    return flash_by_runs(*states, **options)[None], None


def flex(module, query, key, value, attention_mask=None, **options):
    groups = query.shape[1] // key.shape[1]
    states = (query, key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1))
    return compiled_flex(*states, block_mask=flex.mask, scale=options["scaling"]).transpose(1, 2), None


def make_model(size: str, device: str, attention: str) -> Qwen2ForCausalLM:
    """Return a model of random weights, in half precision on a GPU, with its layers checkpointed."""
    AttentionInterface.register("benchmark_sdpa", sdpa_by_runs)
    AttentionInterface.register("benchmark_flash", varlen)
    AttentionInterface.register("benchmark_flex", flex)
    torch.manual_seed(0)
    config = Qwen2Config(**SIZES[size], num_key_value_heads=2, vocab_size=VOCABULARY, max_position_embeddings=65536)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    loaded = {"attn_implementation": "flash_attention_2"} if attention == "benchmark_flash" else {}
    model = Qwen2ForCausalLM._from_config(config, dtype=dtype, **loaded).to(device)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.config._attn_implementation = attention
    return model.train()


def compute(model: Qwen2ForCausalLM, packs: Sequence[tuple[Pack, Sequence[Row]]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probabilities of all rows' tokens and the gradient of their sum, micro-batch by micro-batch."""
    device = model.device
    model.zero_grad(set_to_none=True)
    found = []
    for pack, rows in packs:
        runs.use(Runs.of(pack, device))
        if model.config._attn_implementation == "benchmark_flex":
            seen, size = pack.mask().to(device), len(pack)
            flex.mask = create_block_mask(lambda b, h, q, k, seen=seen: seen[q, k], None, None, size, size, device)
        tokens = torch.from_numpy(np.concatenate(rows))
        places = torch.cat([torch.arange(len(row)) for row in rows])
        ids = tokens[pack.source].to(device)
        logits = model(input_ids=ids[None], position_ids=places[pack.source][None].to(device), use_cache=False).logits[
            0
        ]
        of_packed = torch.nn.functional.cross_entropy(logits.float(), ids.roll(-1), reduction="none")
        of_rows = -of_packed[pack.places.to(device)]
        has_next = torch.cat([torch.arange(len(row)) < len(row) - 1 for row in rows]).to(device)
        (of_rows * has_next).mean().backward()
        found.append((of_rows * has_next).detach())
    runs.use(None)
    return torch.cat(found), model.model.embed_tokens.weight.grad.clone()


def micro_batches(rows: Sequence[Row], budget: int, is_packed: bool) -> list[tuple[Pack, Sequence[Row]]]:
    """Return the micro-batches: packed, or of rows that share nothing."""
    if is_packed:
        sets = split(DepthFirst.of(rows), budget)
        return [(Pack.of(members), members) for members in ([rows[place] for place in one] for one in sets)]
    found: list[list[Row]] = [[]]
    for row in rows:
        if found[-1] and sum(map(len, found[-1])) + len(row) > budget:
            found.append([])
        found[-1].append(row)
    return [(rows_apart(members), members) for members in found]


def rows_apart(rows: Sequence[Row]) -> Pack:
    """Return rows laid end to end."""
    place = torch.arange(sum(map(len, rows)))
    lengths = [len(row) for row in rows]
    return Pack(place, place, lengths, [Run(number, length, length) for number, length in enumerate(lengths)])


def cost(model: Qwen2ForCausalLM, batches: Sequence[tuple[Pack, Sequence[Row]]]) -> tuple[float, float]:
    """Return the seconds that computing micro-batches takes, and the most memory beside the model in GB."""
    if model.device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before, start = torch.cuda.memory_allocated(), time.perf_counter()
        compute(model, batches)
        torch.cuda.synchronize()
        return time.perf_counter() - start, (torch.cuda.max_memory_allocated() - before) / 1e9
    # A process of its own, whose memory nobody else has filled before.
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    child = fork.Process(target=send_cost, args=(theirs, model, batches))
    child.start()
    found: tuple[float, float] = ours.recv()
    child.join()
    return found


def send_cost(pipe: Connection, model: Qwen2ForCausalLM, batches: Sequence[tuple[Pack, Sequence[Row]]]) -> None:
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    compute(model, batches)
    seconds = time.process_time() - start
    pipe.send((seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6))


def measure(shape: Shape, model: Qwen2ForCausalLM, budget: int, trees: int, repeats: int) -> str:
    """Return the row of a shape."""
    chance = random.Random(shape.name)
    rows = [row for _ in range(trees) for row in shape.tree(chance)]
    of_rows, packed = (micro_batches(rows, budget, is_packed) for is_packed in (False, True))
    row_tokens, unique = sum(map(len, rows)), DepthFirst.of(rows).unique
    computed = sum(len(pack) for pack, _ in packed)
    costs = [(cost(model, of_rows), cost(model, packed)) for _ in range(repeats)]
    seconds = [statistics.median(pair[which][0] for pair in costs) for which in (0, 1)]
    memory = [statistics.median(pair[which][1] for pair in costs) for which in (0, 1)]
    ratios = [pair[0][0] / pair[1][0] for pair in costs]
    return (
        f"| {shape.name} | {row_tokens} | {unique} | {computed / unique:.3f} | {row_tokens / computed:.2f} "
        f"| {len(of_rows)} / {len(packed)} | {seconds[0]:.2f} / {seconds[1]:.2f} "
        f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) "
        f"| {memory[0]:.2f} / {memory[1]:.2f} |"
    )


HEADER = (
    "| trees | row tokens | unique | computed / unique | factor | micro-batches | seconds | ratio of seconds | GB |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--attention", choices=["flash", "sdpa", "flex"], help="default: flash where it is installed")
    parser.add_argument("--size", default="small", choices=SIZES)
    parser.add_argument("--budget", type=int, default=16384, help="tokens of a micro-batch")
    parser.add_argument("--trees", type=int, default=1, help="of each shape")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    has_flash = arguments.device == "cuda" and is_flash_attn_2_available()
    attention = arguments.attention or ("flash" if has_flash else "sdpa")
    model = make_model(arguments.size, arguments.device, f"benchmark_{attention}")
    print(f"{arguments}, {model.config._attn_implementation}, torch {torch.__version__}")
    print(HEADER)
    for shape in SHAPES:
        print(measure(shape, model, arguments.budget, arguments.trees, arguments.repeats), flush=True)


if __name__ == "__main__":
    main()
