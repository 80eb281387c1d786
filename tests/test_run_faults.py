"""What a real training run does when rewards fail and when the processes that it waits for are killed."""

import json
import time
from pathlib import Path

import psutil
import pytest
from quickstart import marked, stop
from runs import LEAVES, PROMPTS, Training, start

pytestmark = pytest.mark.slow

END_SECONDS = 60
"""Within which a run has to end after one of its processes has died. The watch needs about ten seconds."""


def logged(folder: Path) -> dict[int, dict[str, float]]:
    """Return what each finished step of the last run has logged; verl's file logger begins the file anew.

    A step in which the run is stopped logs what it has measured too, without the time of a whole step.
    """
    file = folder / "metrics.jsonl"
    entries = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return {entry["step"]: entry["data"] for entry in entries if "timing_s/step" in entry["data"]}


def wait_for_step(child: Training, folder: Path, after: int) -> None:
    """Wait until a run has logged a step after the given one."""
    deadline = time.monotonic() + 600
    while not any(step > after for step in logged(folder)):
        assert child.poll() is None, (folder / "train.log").read_text(errors="replace")[-5000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def title_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended meanwhile
        return ""


def kill(child: Training, title: str) -> None:
    """Kill the Ray actors of a class as the kernel does when memory runs out."""
    actors = [process for process in marked(child.mark) if title_of(process).startswith(f"ray::{title}")]
    assert actors, f"no process of a {title}"
    for actor in actors:
        actor.kill()


def run_until_death(world: Path, folder: Path, title: str, after: int) -> tuple[dict[int, dict[str, float]], str]:
    """Train, kill one of the run's processes after a step, and return the steps' metrics and the log."""
    reward = Path(__file__).parent / "failing_reward.py"
    words = [
        "algorithm.adv_estimator=arpo",
        "trainer.total_training_steps=200",
        f"reward.custom_reward_function.path={reward}",
        "+arpo.max_reward_seconds=5",
        "data.seed=1",
    ]
    child = start(world, folder, *words, REWARD_CALLS=str(folder / "reward_calls"))
    try:
        wait_for_step(child, folder, after)
        kill(child, title)
        child.wait(END_SECONDS)
    finally:
        stop(child, child.mark)
    assert child.returncode == 1
    return logged(folder), (folder / "train.log").read_text(errors="replace")


def test_a_run_whose_processes_are_killed_ends_saved_and_resumes(world, tmp_path):
    finished = 0
    for title, name in (
        ("ArpoAgentLoopWorker", "agent loop worker 0"),
        ("SimpleStorageUnit", "TransferQueue's storage unit 0"),
        ("TransferQueueController", "TransferQueue's controller"),
        ("RewardLoopWorker", "reward worker 0"),
    ):
        metrics, log = run_until_death(world, tmp_path, title, after=finished)
        # Without its reward worker a step may lose all its leaves before the watch has looked.
        is_named = f"{name} died while the run needed it" in log
        assert is_named or "first failure of a reward: ActorDiedError" in log, log[-5000:]
        # The same command has gone on from where the run before it ended.
        assert min(metrics) == finished + 1
        if finished == 0:
            # Three rewards of the first step have failed: one late, one with an error, one without a score.
            assert metrics[1]["arpo/failed_fraction"] == 3 / (PROMPTS * LEAVES)
            assert metrics[1]["arpo/leaves"] == LEAVES
            assert "no reward within arpo.max_reward_seconds=5" in log
            assert "the fifth call fails" in log
        saved = int((tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt").read_text())
        # What dies in the middle of an update takes its step along.
        assert saved == max(metrics) or "had begun to update the weights" in log
        finished = saved
