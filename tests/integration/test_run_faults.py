"""What a real training run does when rewards fail, when what it waits for dies or hangs, and when it is to end."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from quickstart import marked, stop
from runs import LEAVES, PROMPTS, Training, start

pytestmark = [pytest.mark.slow, pytest.mark.engine]

END_SECONDS = 180
"""Within which a run has to end after what the tests do to it. The watch needs about ten seconds, a
run that hangs its two limits of 30 s."""


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


def send(child: Training, title: str, number: signal.Signals) -> None:
    """Signal the Ray actors of a class; SIGKILL is what the kernel does when memory runs out."""
    actors = [process for process in marked(child.mark) if title_of(process).startswith(f"ray::{title}")]
    assert actors, f"no process of a {title}"
    for actor in actors:
        actor.send_signal(number)


def run_until(
    world: Path, folder: Path, end: Callable[[Training], None], after: int, *overrides: str
) -> tuple[dict[int, dict[str, float]], str]:
    """Train, end the run in some way after a step, and return the steps' metrics and the log."""
    reward = Path(__file__).parent / "failing_reward.py"
    words = [
        "algorithm.adv_estimator=arpo",
        "trainer.total_training_steps=200",
        f"reward.custom_reward_function.path={reward}",
        "+arpo.max_reward_seconds=5",
        "data.seed=1",
        *overrides,
    ]
    child = start(world, folder, *words, REWARD_CALLS=str(folder / "reward_calls"))
    try:
        wait_for_step(child, folder, after)
        end(child)
        child.wait(END_SECONDS)
    finally:
        stop(child, child.mark)
    assert child.returncode == 1
    return logged(folder), (folder / "train.log").read_text(errors="replace")


def saved_step(folder: Path) -> int:
    return int((folder / "checkpoints" / "latest_checkpointed_iteration.txt").read_text())


KILLED = [
    [("ArpoAgentLoopWorker", "agent loop worker 0")],
    pytest.param(
        [
            ("SimpleStorageUnit", "TransferQueue's storage unit 0"),
            ("TransferQueueController", "TransferQueue's controller"),
            ("RewardLoopWorker", "reward worker 0"),
        ],
        marks=pytest.mark.nightly,
    ),
]


@pytest.mark.parametrize("killed", KILLED, ids=lambda killed: " and ".join(title for title, _ in killed))
def test_a_run_whose_processes_are_killed_or_that_is_asked_to_end_ends_saved_and_resumes(killed, world, tmp_path):
    finished = 0
    for title, name in killed:
        metrics, log = run_until(
            world, tmp_path, lambda child, title=title: send(child, title, signal.SIGKILL), after=finished
        )
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
        # What dies in the middle of an update takes its step along.
        assert saved_step(tmp_path) == max(metrics) or "had begun to update the weights" in log
        finished = saved_step(tmp_path)
    metrics, log = run_until(world, tmp_path, lambda child: child.send_signal(signal.SIGTERM), after=finished)
    assert "the run was asked to end, by SIGTERM. The state of step" in log
    assert (min(metrics), max(metrics)) == (finished + 1, saved_step(tmp_path))


@pytest.mark.nightly
def test_an_asynchronous_run_whose_queue_hangs_ends_saved_without_it(world, tmp_path):
    metrics, log = run_until(
        world,
        tmp_path,
        lambda child: send(child, "SimpleStorageUnit", signal.SIGSTOP),
        0,
        "trainer.v1.trainer_mode=colocate_async",
        "trainer.v1.colocate_async.num_warmup_batches=1",
        "+arpo.max_stall_seconds=30",
    )
    assert "nothing has happened for 3" in log
    if "had begun to update the weights" not in log:
        assert "the prompts that were in flight are left out of the run that goes on" in log
        assert saved_step(tmp_path) == max(metrics)
