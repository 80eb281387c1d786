"""The quickstart's program: make the tiny world, train on it, show progress, and end with a table and `summary.json`.

Called by `quickstart.sh`, which documents it. Everything that verl and Ray print goes to a file; what is shown comes
from verl's own metrics file. Whatever way the run ends, no process that it started stays.
"""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import psutil
from failure_report import report as failure_report
from rich.console import Console
from rich.table import Table
from validation import compare

from arpo_verl.preflight.compose import PRESET
from arpo_verl.record import RecordedStep, read_steps

RUN_MARK = "ARPO_VERL_RUN"
"""The environment variable that every descendant inherits, by which all are found afterwards."""
STAGES = {
    "Started a local Ray instance": "Ray is up",
    "actor and ref model engine initialized": "FSDP2 actor is up",
    "all initialize finished": "vLLM is up, validating before training",
}
GRACE_SECONDS = 15

console = Console(highlight=False, soft_wrap=True)


@dataclass
class TrainingRun:
    """One training run on the tiny world: its settings, its command and its files."""

    algorithm: str
    seed: int
    steps: int
    output: Path
    overrides: list[str]

    @property
    def world(self) -> Path:
        return self.output.parent / f"tiny-world-seed{self.seed}"

    @property
    def log(self) -> Path:
        return self.output / "train.log"

    @property
    def metrics(self) -> Path:
        return self.output / "metrics.jsonl"

    def environment(self) -> dict[str, str]:
        """The environment of the training run: CPU platform, one thread a process, nothing from the network."""
        settings = {
            "VERL_PLATFORM": "cpu",
            "VERL_FILE_LOGGER_PATH": str(self.metrics),
            "ARPO_SEARCH_CORPUS": str(self.world / "corpus.jsonl"),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "VLLM_NO_USAGE_STATS": "1",
            RUN_MARK: uuid.uuid4().hex,
        }
        # A cluster of somebody else's is not ours to train on.
        return {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | settings

    def arguments(self) -> list[str]:
        """The overrides of the preset: the world, and sizes that suit a model of 0.3 M parameters."""
        data = [
            f"data.{split}_files={quoted(self.world / f'{name}.parquet')}"
            for split, name in (("train", "train"), ("val", "validation"))
        ]
        sizes = [
            "data.train_batch_size=16",
            "data.max_prompt_length=64",
            "data.max_response_length=128",
            f"data.seed={self.seed}",
            f"arpo.seed={self.seed}",
            f"actor_rollout_ref.rollout.seed={self.seed}",
            "actor_rollout_ref.rollout.n=8",
            "actor_rollout_ref.actor.optim.lr=2e-4",
            "actor_rollout_ref.actor.ppo_mini_batch_size=8",
            "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=32",
            "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=64",
            "actor_rollout_ref.rollout.val_kwargs.n=4",
            "actor_rollout_ref.rollout.val_kwargs.temperature=1.0",
            "actor_rollout_ref.rollout.val_kwargs.do_sample=True",
        ]
        trainer = [
            f"trainer.total_training_steps={self.steps}",
            f"trainer.test_freq={self.steps}",
            f"trainer.save_freq={self.steps}",
            f"trainer.validation_data_dir={quoted(self.output / 'validation')}",
            f"trainer.rollout_data_dir={quoted(self.output / 'rollouts')}",
            f"trainer.default_local_dir={quoted(self.output / 'checkpoints')}",
            "trainer.resume_mode=disable",
            "trainer.project_name=quickstart",
            f"trainer.experiment_name={quoted(self.output.name)}",
            # hf_model adds the Hugging Face format to verl's own checkpoint.
            "actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model]",
            f"hydra.run.dir={quoted(self.output / 'hydra')}",
        ]
        settings = [
            "platform=cpu",
            f"algorithm.adv_estimator={self.algorithm}",
            f"actor_rollout_ref.model.path={quoted(self.world / 'model')}",
        ]
        return [*settings, *data, *sizes, *trainer, *self.overrides]

    def command(self) -> list[str]:
        """The verl command."""
        path, name = PRESET
        preset = ["--config-path", path, "--config-name", name]
        return [sys.executable, "-m", "verl.trainer.main_ppo", *preset, *self.arguments()]


def quoted(value: Path | str) -> str:
    """Quote a value for Hydra's override grammar, in which most punctuation has a meaning."""
    text = str(value).replace("'", "\\'")
    return f"'{text}'"


def main() -> None:
    run = TrainingRun(
        algorithm=os.environ["ALGORITHM"],
        seed=int(os.environ["SEED"]),
        steps=int(os.environ["STEPS"]),
        output=Path(os.environ["OUTPUT"]),
        overrides=sys.argv[1:],
    )
    end_on_signals()
    started = time.monotonic()
    check_overrides([run])
    console.print(f"full log: {run.log}")
    prepare(run)
    world_seconds = time.monotonic() - started
    timing = train(run)
    timing |= {"tiny_world": world_seconds, "total": time.monotonic() - started}
    report(run, timing)


def check_overrides(runs: Sequence[TrainingRun]) -> None:
    """End with a message if the runs' overrides can't work, as far as their values alone show it.

    Before the tiny world is made, which takes a minute; the run itself checks everything, files and machine included.
    """
    from arpo_verl.preflight.override_check import problem

    for run in runs:
        if found := problem(*PRESET, run.arguments()):
            sys.exit(f"{run.output.name}: {found}")


def end_on_signals() -> None:
    """Let SIGINT, SIGTERM and SIGHUP raise, so that the run is cleaned up."""
    # A shell starts its background jobs with the signal ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for end in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(end, lambda number, _: sys.exit(128 + number))


def prepare(run: TrainingRun) -> None:
    """Make the tiny world if it is not there, and an output folder without an earlier run's records."""
    make_world = [sys.executable, "-m", "arpo_verl.tiny_world", "--out", str(run.world), "--seed", str(run.seed)]
    # Waiting threads that spin would take the cores from each other where they are shared.
    quiet = dict(os.environ, OMP_WAIT_POLICY="PASSIVE")
    subprocess.run(make_world, check=True, stderr=subprocess.DEVNULL, env=quiet)
    run.output.mkdir(parents=True, exist_ok=True)
    run.metrics.unlink(missing_ok=True)
    for dump in ("rollouts", "validation"):
        shutil.rmtree(run.output / dump, ignore_errors=True)


def train(run: TrainingRun) -> dict[str, float]:
    """Train with progress on the console; return seconds and the peak memory in GB."""
    environment = run.environment()
    started = time.monotonic()
    with run.log.open("w") as log:
        child = subprocess.Popen(
            run.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, cwd=run.output,
            start_new_session=True,
        )  # fmt: skip
    try:
        timing = watch(run, child, started)
    except KeyboardInterrupt:
        console.print("interrupted: stopping the run")
        sys.exit(130)
    finally:
        stop(child, environment[RUN_MARK])
    if child.returncode != 0:
        console.print(failure_report(run.log, child.returncode), markup=False)
        sys.exit(1)
    return timing


def watch(run: TrainingRun, child: subprocess.Popen[bytes], started: float) -> dict[str, float]:
    """Show each stage and step as it appears, until the child ends."""
    baseline = psutil.virtual_memory().used
    timing = {"peak_memory_gb": 0.0}
    with run.log.open(errors="replace") as log:
        metrics: TextIO | None = None
        while True:
            is_over = child.poll() is not None
            for line in log:
                for mark, stage in STAGES.items():
                    if mark in line:
                        console.print(f"{time.monotonic() - started:5.0f} s  {stage}")
                        timing.setdefault(stage, time.monotonic() - started)
            if metrics is None and run.metrics.exists():
                metrics = run.metrics.open()
            for line in metrics or ():
                entry = json.loads(line)
                show_step(run, entry["step"], entry["data"], time.monotonic() - started)
            used = (psutil.virtual_memory().used - baseline) / 2**30
            timing["peak_memory_gb"] = max(timing["peak_memory_gb"], used)
            if is_over:
                timing["training_run"] = time.monotonic() - started
                return timing
            time.sleep(0.5)


def show_step(run: TrainingRun, step: int, data: dict[str, Any], seconds: float) -> None:
    if "timing_s/step" not in data:
        console.print(f"{seconds:5.0f} s  validated; training {run.steps} steps with {run.algorithm}")
        return
    tree = ""
    if "arpo/leaves" in data:
        tree = (
            f"  leaves {data['arpo/leaves']:.0f}  branches {data['arpo/branches_per_prompt']:.1f}"
            f"  top-ups {data['arpo/top_ups_per_prompt']:.1f}  tool calls {data['tools/calls']:.0f}"
        )
    console.print(
        f"{seconds:5.0f} s  step {step}/{run.steps}  reward {data['critic/score/mean']:6.3f}{tree}"
        f"  {data['timing_s/step']:.1f} s"
    )


def stop(child: subprocess.Popen[bytes], mark: str) -> None:
    """End the child and all that inherited its mark; Ray's daemons and vLLM's engines have sessions of their own."""
    # An impatient second Ctrl-C must not end the cleaning up.
    ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {end: signal.signal(end, signal.SIG_IGN) for end in ends}
    try:
        _stop(child, mark)
    finally:
        # Other runs may follow, which a signal ends too.
        for end, handler in handlers.items():
            signal.signal(end, handler)


def _stop(child: subprocess.Popen[bytes], mark: str) -> None:
    # Tools run with a clean environment, without the mark; they are known by their parents while those live.
    family = {grandchild for process in marked(mark) for grandchild in process.children(recursive=True)}
    if child.poll() is None:
        child.send_signal(signal.SIGINT)
        try:
            child.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    deadline = time.monotonic() + GRACE_SECONDS
    while (left := [*marked(mark), *alive(family)]) and time.monotonic() < deadline:
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(left, timeout=1)


def alive(family: set[psutil.Process]) -> list[psutil.Process]:
    return [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(RUN_MARK) == mark:
                found.append(process)
        except psutil.Error:
            continue
    return found


def report(run: TrainingRun, timing: dict[str, float]) -> None:
    """Write summary.json and print it as a table."""
    entries = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    steps = [entry["data"] for entry in entries if "timing_s/step" in entry["data"]]
    validations, last_step = run.output / "validation", entries[-1]["step"]
    seconds = [step["timing_s/step"] for step in steps]
    summary: dict[str, Any] = {
        "algorithm": run.algorithm,
        "seed": run.seed,
        "steps": len(steps),
        # A run that resumed validates first too, under the number of the step that it resumed from.
        **compare(validations / f"{entries[0]['step']}.jsonl", validations / f"{last_step}.jsonl"),
        **count_leaves(run, steps),
        "seconds_per_step": statistics.median(seconds),
        "seconds": {name: round(value, 1) for name, value in timing.items() if name != "peak_memory_gb"},
        "peak_memory_gb": round(timing["peak_memory_gb"], 2),
        "model": str(run.output / "checkpoints" / f"global_step_{last_step}" / "actor" / "huggingface"),
    }
    path = run.output / "summary.json"
    path.write_text(json.dumps(summary, indent=2) + "\n")
    show(summary, path)


def count_leaves(run: TrainingRun, steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Count leaves and tool calls over all steps; what only trees have is 0 for another algorithm."""
    rollouts = list(read_steps(run.output))
    leaves = {len(prompt.leaves) for step in rollouts for prompt in step.prompts}
    prompts = sum(len(step.prompts) for step in rollouts) / len(steps)
    has_trees = "arpo/leaves" in steps[0]
    calls = sum(step["tools/calls"] for step in steps) if has_trees else sum(map(calls_in_leaves, rollouts))
    return {
        "leaves_per_prompt": sorted(leaves),
        "leaves": sum(1 for step in rollouts for _ in step.rows()),
        "branches": round(sum(step.get("arpo/branches_per_prompt", 0) * prompts for step in steps)),
        "top_ups": round(sum(step.get("arpo/top_ups_per_prompt", 0) * prompts for step in steps)),
        "tool_calls": round(calls),
    }


def calls_in_leaves(step: RecordedStep) -> int:
    """Count the calls of all leaves, those of a shared prefix for each of them: those executed if nothing is shared."""
    return sum(len(prompt.calls_of(leaf)) for prompt, leaf in step.rows())


def show(summary: dict[str, Any], path: Path) -> None:
    before, after, gain = summary["before"], summary["after"], summary["gain"]
    table = Table(title=f"{summary['algorithm']}, {summary['steps']} steps, seed {summary['seed']}")
    for column in ("validation", "before", "after", "gain", "standard error"):
        table.add_column(column, justify="left" if column == "validation" else "right")
    for name in ("reward", "accuracy"):
        values = (before[name], after[name], gain[name], gain[f"{name}_standard_error"])
        table.add_row(name, *(f"{value:.3f}" for value in values))
    console.print(table)
    counts = Table(show_header=False)
    for label, key in (
        ("tool calls executed", "tool_calls"), ("leaves", "leaves"), ("branches", "branches"), ("top-ups", "top_ups"),
        ("seconds per step", "seconds_per_step"),
    ):  # fmt: skip
        value = summary[key]
        counts.add_row(label, f"{value:.1f}" if isinstance(value, float) else str(value))
    console.print(counts)
    console.print(f"trained model: {summary['model']}\nsummary:       {path}")


if __name__ == "__main__":
    main()
