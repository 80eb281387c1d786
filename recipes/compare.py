"""The comparison's program: GRPO against ARPO on the tiny world, with a table and a figure.

Called by `compare.sh`, which documents it. A seed is a world, a cold-started model and all sampling; its arms start
from the same model and see the same prompts in the same order. Runs go one after the other, all arms of a seed before
the next seed. A finished run has a `summary.json` and is not repeated; an interrupted one is started afresh.

Costs are what was really executed: a call or a token that leaves share counts once. The reward of a step is that of the
leaves that start at the prompt, because forks happen only after tool calls: among all leaves of a tree those that call
tools are over-represented, so their mean is not the policy's.
"""

import json
import os
import re
import shutil
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comparison_table import RunRecord, StepRecord, render
from quickstart import (
    Run,
    check_words,
    console,
    end_on_signals,
    executed_calls,
    prepare,
    prompt_of,
    read_rollouts,
    train,
)
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from validation import compare

RESULT = re.compile(r" <result>\n.*?\n</result>", re.DOTALL)
"""A tool result in the text of a leaf (`arpo.result_template`)."""


@dataclass(frozen=True)
class Arm:
    """One of the algorithms that are compared."""

    algorithm: str
    overrides: tuple[str, ...] = ()


ARMS = {
    "grpo": Arm("grpo"),
    "arpo-soft": Arm("arpo"),
    "arpo-hard": Arm("arpo", ("arpo.advantage=hard",)),
    # Every fork point has the probability α: the entropy has no say.
    "arpo-random": Arm("arpo", ("arpo.entropy_weight=0",)),
}


@dataclass(frozen=True)
class Comparison:
    """Settings of a comparison, from the environment."""

    arms: list[str]
    seeds: list[int]
    steps: int
    output: Path
    overrides: list[str]

    def run(self, arm: str, seed: int) -> Run:
        """Return the run of an arm; the first of a seed validates the common model before training."""
        is_validated = self.validation_before(seed).exists()
        overrides = [
            "trainer.save_freq=-1",
            f"trainer.val_before_train={not is_validated}",
            *ARMS[arm].overrides,
            *self.overrides,
        ]
        return Run(ARMS[arm].algorithm, seed, self.steps, self.output / f"{arm}-seed{seed}", overrides)

    def validation_before(self, seed: int) -> Path:
        return self.output / f"validation-before-seed{seed}.jsonl"

    def summary(self, arm: str, seed: int) -> Path:
        return self.output / f"{arm}-seed{seed}" / "summary.json"

    def finished(self, arm: str, seed: int) -> RunRecord | None:
        """Return the record of a run that ended, or None."""
        path = self.summary(arm, seed)
        if not path.exists():
            return None
        record = RunRecord.from_json(path.read_text())
        if len(record.steps) != self.steps:
            sys.exit(f"{path} has {len(record.steps)} steps; expected {self.steps}: set STEPS or choose another OUTPUT")
        return record


def main() -> None:
    names = os.environ["ARMS"].split()
    if unknown := [name for name in names if name not in ARMS]:
        sys.exit(f"ARMS has {', '.join(unknown)}; expected some of {', '.join(ARMS)}: correct it")
    comparison = Comparison(
        arms=names,
        seeds=[int(seed) for seed in os.environ["SEEDS"].split()],
        steps=int(os.environ["STEPS"]),
        output=Path(os.environ["OUTPUT"]),
        overrides=sys.argv[1:],
    )
    end_on_signals()
    check_words([comparison.run(arm, comparison.seeds[0]) for arm in comparison.arms])
    run_all(comparison)


def run_all(comparison: Comparison) -> None:
    """Execute what has not ended yet; report after every seed, so that an early stop leaves the seeds before it."""
    for seed in comparison.seeds:
        for arm in comparison.arms:
            if comparison.finished(arm, seed) is None:
                execute(comparison, arm, seed)
        report(comparison)


def execute(comparison: Comparison, arm: str, seed: int) -> None:
    """Train one arm and write its summary, at the very end and at once: half a summary would pass for a whole one."""
    run = comparison.run(arm, seed)
    console.print(f"\n{arm}, seed {seed}: full log {run.log}")
    prepare(run)
    train(run)
    before = comparison.validation_before(seed)
    if not before.exists():
        shutil.copyfile(run.output / "validation" / "0.jsonl", before)
    record = RunRecord(
        arm=arm,
        seed=seed,
        validation=compare(before, run.output / "validation" / f"{comparison.steps}.jsonl"),
        steps=step_records(run),
    )
    path = comparison.summary(arm, seed)
    draft = path.with_suffix(".draft")
    draft.write_text(record.to_json())
    draft.replace(path)


def step_records(run: Run) -> list[StepRecord]:
    """Read what each step cost and earned from verl's metrics and rollout dumps."""
    tokenizer = AutoTokenizer.from_pretrained(run.world / "model")
    entries = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [
        step_record(entry["data"], read_rollouts(run, entry["step"]), tokenizer)
        for entry in entries
        if "timing_s/step" in entry["data"]
    ]


def step_record(
    metrics: dict[str, Any], rows: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase
) -> StepRecord:
    """Return the record of one step.

    Args:
        metrics: what verl logged.
        rows: the leaves of the step, from the rollout's dump.
        tokenizer: counts the tokens of tool results in runs without trees, which log them as part of the responses.
    """
    has_trees = "arpo/leaves" in metrics
    is_root = [not has_trees or (row["arpo_parent"] is None and not row["arpo_is_top_up"]) for row in rows]
    return StepRecord(
        reward=statistics.fmean(row["score"] for row, root in zip(rows, is_root, strict=True) if root),
        leaf_reward=statistics.fmean(row["score"] for row in rows),
        tool_calls=metrics["tools/calls"] if has_trees else executed_calls(rows),
        leaf_calls=executed_calls(rows),
        generated_tokens=metrics["arpo/generated_tokens"] if has_trees else sampled_tokens(metrics, rows, tokenizer),
        shared_tokens=metrics.get("arpo/shared_token_fraction", 0.0),
        equal_prompts=equal_prompts(rows),
        equal_forks=equal_forks(rows) if has_trees else None,
        branches=metrics.get("arpo/branches_per_prompt", 0.0),
        top_ups=metrics.get("arpo/top_ups_per_prompt", 0.0),
        branch_probability=metrics.get("arpo/branch_probability"),
        entropy_initial=metrics.get("arpo/entropy/initial"),
        entropy_after_tool=metrics.get("arpo/actor_entropy/after_tool"),
        entropy_elsewhere=metrics.get("arpo/actor_entropy/elsewhere"),
    )


def equal_prompts(rows: Sequence[dict[str, Any]]) -> float:
    """Return the share of prompts whose leaves all earn the same."""
    scores: dict[str, set[float]] = {}
    for row in rows:
        scores.setdefault(prompt_of(row), set()).add(row["score"])
    return statistics.fmean(len(distinct) == 1 for distinct in scores.values())


def equal_forks(rows: Sequence[dict[str, Any]]) -> float | None:
    """Return the share of forks that earn what the leaf does that they forked from; None without forks."""
    score = {(prompt_of(row), row["arpo_number"]): row["score"] for row in rows}
    forks = [row for row in rows if row["arpo_parent"] is not None]
    if not forks:
        return None
    return statistics.fmean(score[prompt_of(row), row["arpo_parent"]] == row["score"] for row in forks)


def sampled_tokens(metrics: dict[str, Any], rows: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase) -> int:
    """Count the sampled tokens of independent leaves, ends of text included: all of their tokens less the results."""
    results = [result for row in rows for result in RESULT.findall(row["output"])]
    inserted = sum(len(tokenizer.encode(result, add_special_tokens=False)) for result in results)
    return round(metrics["response_length/mean"] * len(rows)) - inserted


def report(comparison: Comparison) -> None:
    """Write table and figure from the seeds of which every arm has ended."""
    found = {seed: {arm: comparison.finished(arm, seed) for arm in comparison.arms} for seed in comparison.seeds}
    whole = [
        {arm: record for arm, record in runs.items() if record is not None}
        for runs in found.values()
        if None not in runs.values()
    ]
    table, figure = comparison.output / "comparison.md", comparison.output / "comparison.svg"
    table.write_text(render(whole))
    console.print(f"\ntable:  {table} ({len(whole)} seeds)")
    if not whole:
        return
    try:
        from comparison_figure import draw
    except ImportError as error:
        console.print(f"no figure: {error}; install recipes/requirements-figure.txt and call again")
        return
    draw(whole, figure)
    console.print(f"figure: {figure}")


if __name__ == "__main__":
    main()
