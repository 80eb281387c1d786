"""`python -m arpo_verl.tiny_world --out DIR [--seed S]`: make the world, its data files and a cold-started model.

With `--traces N` it writes N traces of a cold start too, for verl's own SFT trainer (recipes/cold_start.sh).

    DIR/corpus.jsonl           the search engine's documents
    DIR/train.parquet          verl's RL columns; `data_source` is tiny_world/<grade>
    DIR/validation.parquet     questions that training never asks
    DIR/model/                 Hugging Face format
    DIR/traces.jsonl           conversations in the form of the published ARPO traces; only with --traces

A second call with the same arguments finds everything in place and does nothing.
"""

import argparse
import json
import random
import time
from pathlib import Path

import pandas
import torch

from arpo_verl.tiny_world import cold_start, model
from arpo_verl.tiny_world.world import Question, World, make_world


def rows(questions: list[Question], split: str) -> list[dict[str, object]]:
    """Return the questions in the columns that verl's `RLHFDataset` reads."""
    return [
        {
            "data_source": f"tiny_world/{question.grade}",
            "prompt": [{"role": "user", "content": question.text}],
            "ability": question.grade,
            "reward_model": {"style": "rule", "ground_truth": question.answer},
            "extra_info": {"split": split, "index": index, "ability": question.grade},
        }
        for index, question in enumerate(questions)
    ]


def write_data(world: World, folder: Path) -> None:
    """Write the corpus and both parquet files."""
    lines = [json.dumps(document) for document in world.corpus()]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    pandas.DataFrame(rows(world.train, "train")).to_parquet(folder / "train.parquet")
    pandas.DataFrame(rows(world.validation, "validation")).to_parquet(folder / "validation.parquet")


def write_traces(folder: Path, seed: int, count: int) -> None:
    """Write conversations whose tool results stand inside the assistant's text."""
    generator = random.Random(f"traces {seed}")
    with (folder / "traces.jsonl").open("w", encoding="utf-8") as file:
        for question, pieces in cold_start.traces(generator, count):
            turns = [("human", question.text), ("gpt", "".join(text for text, _ in pieces))]
            row = {"conversations": [{"from": role, "value": text} for role, text in turns]}
            file.write(json.dumps(row) + "\n")


def write_model(folder: Path, seed: int, steps: int) -> None:
    """Cold-start a model and save it."""
    start = time.monotonic()
    tokenizer = model.make_tokenizer()
    tiny = model.make_model(tokenizer, seed)
    for step, loss in enumerate(cold_start.train(tiny, tokenizer, seed, steps), start=1):
        if step % 100 == 0 or step == steps:
            print(f"cold start: step {step}/{steps}, loss {loss:.3f}, {time.monotonic() - start:.0f} s", flush=True)
    model.save(tiny, tokenizer, folder / "model")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0, help="seed of the world, the model and the cold start")
    parser.add_argument("--cold-start-steps", type=int, default=800, help="0 leaves the model untrained")
    parser.add_argument("--traces", type=int, default=0, help="how many to write (default: none)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of the cold start")
    arguments = parser.parse_args()

    recipe = json.dumps(
        {"seed": arguments.seed, "cold_start_steps": arguments.cold_start_steps, "traces": arguments.traces}
    )
    done = arguments.out / "done.json"
    if done.is_file() and done.read_text() == recipe:
        print(f"the tiny world is already in {arguments.out}")
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    write_data(make_world(arguments.seed), arguments.out)
    if arguments.traces:
        write_traces(arguments.out, arguments.seed, arguments.traces)
    write_model(arguments.out, arguments.seed, arguments.cold_start_steps)
    done.write_text(recipe)


if __name__ == "__main__":
    main()
