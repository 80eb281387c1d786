"""Grows the trees of a measurement in a process of its own, and reads their record."""

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType

import psutil

from arpo_verl.measure.live_settings import LiveOptions, WrongWords, training_command
from arpo_verl.record import RecordedPrompt, RecordedStep, read_steps
from arpo_verl.record.run_files import NotARun

LOG = "run.log"
STAGES = {
    "Started a local Ray instance": "Ray is up",
    "actor and ref model engine initialized": "the model is loaded",
    "all initialize finished": "the inference server is up; leaves grow",
}
"""Lines of verl's log, and what they mean."""
GRACE_SECONDS, LOOK_SECONDS = 20.0, 0.5
SHOWN_CHARACTERS = 1500


class RunFailed(RuntimeError):
    """The run that should have grown trees has ended without."""


def grow_trees(options: LiveOptions, say: Callable[[str], None]) -> list[RecordedPrompt]:
    """Grow trees by verl's own trainer, without training, and return their record.

    Whatever way it ends, no process that it started stays, and without `keep` no file.

    Args:
        options: what the command was given.
        say: gets a line for each stage.

    Raises:
        WrongWords: the overrides can't be what was meant; nothing was started.
        RunFailed: the run ended without a record; the message has the end of its log.
    """
    with _folder(options.keep) as folder:
        command = training_command(options, folder)
        started = time.monotonic()
        code = run_command(command, folder / LOG, lambda stage: say(f"{time.monotonic() - started:.0f} s: {stage}"))
        try:
            prompts = _prompts(list(read_steps(folder)))
        except NotARun:
            prompts = []
        if code or not prompts:
            raise RunFailed(_failure(folder / LOG, code, options.keep))
        say(f"{time.monotonic() - started:.0f} s: {len(prompts)} trees")
        return prompts


def _prompts(steps: Sequence[RecordedStep]) -> list[RecordedPrompt]:
    """Return the prompts of steps; those of the first without times, since its requests wait for a cold server."""
    cold = [
        replace(prompt, segments=[replace(segment, times=None) for segment in prompt.segments])
        for step in steps[:1]
        for prompt in step.prompts
    ]
    return cold + [prompt for step in steps[1:] for prompt in step.prompts]


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """Give a folder for the run's files, which goes afterwards unless it is to be kept."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="arpo-verl-measure-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)
        return
    keep = keep.resolve()
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise WrongWords(f"--keep={keep} is not empty; expected an empty or a new folder: name another one")
    keep.mkdir(parents=True, exist_ok=True)
    yield keep


def run_command(command: Sequence[str], log: Path, say: Callable[[str], None]) -> int:
    """Run a command with its output in a file, and return its exit code; end all that it has started.

    Args:
        command: of verl.
        log: where its output goes.
        say: gets each stage of `STAGES` when its line has come.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    # A cluster of somebody else's is not ours to run on.
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    with log.open("w") as output:
        child = subprocess.Popen(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
        )
    family: dict[int, psutil.Process] = {}
    waiting = dict(STAGES)
    with log.open(errors="replace") as lines, _interrupted_by_signals():
        try:
            while child.poll() is None:
                text = lines.read()
                for line in [line for line in waiting if line in text]:
                    say(waiting.pop(line))
                _remember(child.pid, family)
                time.sleep(LOOK_SECONDS)
            return child.returncode
        finally:
            _end(child, family)


@contextlib.contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP interrupt like SIGINT, so that what was started is ended: it has a session of its own."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _remember(pid: int, family: dict[int, psutil.Process]) -> None:
    """Add the descendants that live now, which can't be found once their parent is gone."""
    with contextlib.suppress(psutil.Error):
        family.update({one.pid: one for one in psutil.Process(pid).children(recursive=True)})


def _end(child: "subprocess.Popen[bytes]", family: dict[int, psutil.Process]) -> None:
    """Ask the run to end, then end what is left of it; `psutil` never signals a process that took over a number."""
    _remember(child.pid, family)
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_SECONDS)
    for one in family.values():
        with contextlib.suppress(psutil.Error):
            one.kill()
    psutil.wait_procs(list(family.values()), GRACE_SECONDS)
    if child.poll() is None:
        child.kill()
    child.wait()


def _failure(log: Path, code: int, keep: Path | None) -> str:
    said = log.read_text(errors="replace")[-SHOWN_CHARACTERS:].strip() if log.is_file() else ""
    where = f" The whole log is {log}." if keep is not None else " Give --keep=FOLDER for the whole log."
    return (
        f"the run that grows the trees ended with code {code} and without a record; expected one: `arpo-verl doctor` "
        f"with the same overrides says what is missing.{where} Its log ends:\n{said}"
    )
