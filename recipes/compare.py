"""The comparison's program: algorithms of the family, by their presets, on the tiny world, with a table and a figure.

Called by `compare.sh`, which documents it. A seed is a world, a cold-started model and all sampling; its arms start
from the same model and see the same prompts in the same order. Runs go one after the other, all arms of a seed before
the next seed. A finished run has its summary among the results and is not repeated; an interrupted one is
started afresh.

Costs are what was really executed: a call or a token that leaves share counts once. The reward of a step is that of the
leaves that start at the prompt, because forks happen only after tool calls: among all leaves of a tree those that call
tools are over-represented, so their mean is not the policy's.
"""

import json
import os
import shutil
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comparison_table import RunRecord, StepRecord, render
from quickstart import (
    TrainingRun,
    calls_in_leaves,
    check_overrides,
    console,
    end_on_signals,
    prepare,
    train,
)
from validation import compare

from arpo_verl.presets import load_preset, preset_names
from arpo_verl.record import RecordedPrompt, RecordedStep, read_step, step_files

ESTIMATOR = "algorithm.adv_estimator"
SUCCESS = "+arpo.replay_kwargs.success=0.5"
"""A reward of the tiny world that only right answers have."""
OF_THE_TINY_WORLD = {
    "arpo_gui": (SUCCESS,),
    "rapo": (SUCCESS,),
    # Forks of rounds for 8 leaves; the presets' are for the papers' numbers of leaves.
    "at2po": ("+arpo.rule_kwargs={forks: 2}",),
    "treerl": ("+arpo.rule_kwargs={forks: 2}",),
    "deep_grpo": ("+arpo.rule_kwargs={forks: 4, forks_per_turn: 4}",),
    "r1_searcher": ("+reward.custom_reward_function.reward_kwargs.stage_one_steps=10",),
}
"""What some presets need there beside their names."""


@dataclass(frozen=True)
class Comparison:
    """Settings of a comparison, from the environment."""

    arms: list[str]
    seeds: list[int]
    steps: int
    output: Path
    """Where runs leave their logs, records and checkpoints."""
    results: Path
    """Where the summaries of finished runs are kept, some kilobytes each, and table and figure are written."""
    overrides: list[str]

    def run(self, arm: str, seed: int) -> TrainingRun:
        """Return the run of an arm; the first of a seed validates the common model before training."""
        is_validated = self.validation_before(seed).exists()
        overrides = [
            "trainer.save_freq=-1",
            f"trainer.val_before_train={not is_validated}",
            f"arpo.preset={arm}",
            *OF_THE_TINY_WORLD.get(arm, ()),
            *self.overrides,
        ]
        algorithm = load_preset(arm).settings[ESTIMATOR]
        return TrainingRun(algorithm, seed, self.steps, self.output / f"{arm}-seed{seed}", overrides)

    def validation_before(self, seed: int) -> Path:
        return self.output / f"validation-before-seed{seed}.jsonl"

    def summary(self, arm: str, seed: int) -> Path:
        return self.results / f"{arm}-seed{seed}.json"

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
    known = [name for name in preset_names() if not load_preset(name).unavailable]
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"ARMS has {', '.join(unknown)}; expected some of {', '.join(known)}: correct it")
    comparison = Comparison(
        arms=names,
        seeds=[int(seed) for seed in os.environ["SEEDS"].split()],
        steps=int(os.environ["STEPS"]),
        output=Path(os.environ["OUTPUT"]),
        results=Path(os.environ["RESULTS"]),
        overrides=sys.argv[1:],
    )
    end_on_signals()
    check_overrides([comparison.run(arm, comparison.seeds[0]) for arm in comparison.arms])
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
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(record.to_json())
    draft.replace(path)


def step_records(run: TrainingRun) -> list[StepRecord]:
    """Read what each step cost and earned from verl's metrics and the record of the rollouts."""
    files = step_files(run.output)
    entries = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [
        step_record(entry["data"], read_step(files[entry["step"]]))
        for entry in entries
        if "timing_s/step" in entry["data"]
    ]


def step_record(metrics: dict[str, Any], rollouts: RecordedStep) -> StepRecord:
    """Return the record of one step.

    Args:
        metrics: what verl logged.
        rollouts: the record of the step's rollouts.
    """
    has_trees = "arpo/leaves" in metrics
    leaves = [leaf for _, leaf in rollouts.rows()]
    roots = [leaf for leaf in leaves if not has_trees or (leaf.parent is None and not leaf.is_top_up)]
    return StepRecord(
        reward=statistics.fmean(leaf.reward for leaf in roots if leaf.reward is not None),
        leaf_reward=statistics.fmean(leaf.reward for leaf in leaves if leaf.reward is not None),
        tool_calls=metrics["tools/calls"] if has_trees else calls_in_leaves(rollouts),
        leaf_calls=calls_in_leaves(rollouts),
        generated_tokens=metrics["arpo/generated_tokens"] if has_trees else sampled_tokens(rollouts),
        shared_tokens=metrics.get("arpo/shared_token_fraction", 0.0),
        equal_prompts=equal_prompts(rollouts.prompts),
        equal_forks=equal_forks(rollouts.prompts) if has_trees else None,
        branches=metrics.get("arpo/branches_per_prompt", 0.0),
        top_ups=metrics.get("arpo/top_ups_per_prompt", 0.0),
        branch_probability=metrics.get("arpo/branch_probability"),
        entropy_initial=metrics.get("arpo/entropy/initial"),
        entropy_after_tool=metrics.get("arpo/actor_entropy/after_tool"),
        entropy_elsewhere=metrics.get("arpo/actor_entropy/elsewhere"),
    )


def equal_prompts(prompts: Sequence[RecordedPrompt]) -> float:
    """Return the share of prompts whose leaves all earn the same."""
    return statistics.fmean(len({leaf.reward for leaf in prompt.leaves}) == 1 for prompt in prompts)


def equal_forks(prompts: Sequence[RecordedPrompt]) -> float | None:
    """Return the share of forks that earn what the leaf does that they forked from; None without forks."""
    equal = []
    for prompt in prompts:
        rewards = {leaf.number: leaf.reward for leaf in prompt.leaves}
        equal += [rewards[leaf.parent] == leaf.reward for leaf in prompt.leaves if leaf.parent is not None]
    return statistics.fmean(equal) if equal else None


def sampled_tokens(rollouts: RecordedStep) -> int:
    """Count the sampled tokens of independent leaves, ends of text included."""
    rows = rollouts.rows()
    return sum(one.tokens for prompt, leaf in rows for one in prompt.segments_of(leaf) if one.is_sampled)


def report(comparison: Comparison) -> None:
    """Write table and figure from the seeds of which every arm has ended."""
    found = {seed: {arm: comparison.finished(arm, seed) for arm in comparison.arms} for seed in comparison.seeds}
    whole = [
        {arm: record for arm, record in runs.items() if record is not None}
        for runs in found.values()
        if None not in runs.values()
    ]
    table, figure = comparison.results / "comparison.md", comparison.results / "comparison.svg"
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
