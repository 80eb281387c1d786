"""What can be looked at: the folder of a run, that of its record, one file of it, or the file of an evaluation."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from arpo_verl.evaluation.records import Run, SampleRecord, read_run
from arpo_verl.record import RecordedCall, RecordedLeaf, RecordedPrompt, RecordedSegment, RecordedStep, read_step
from arpo_verl.record.run_files import step_files


@dataclass(frozen=True)
class Source:
    """The steps of something to look at."""

    path: Path
    kind: str
    """`run` or `evaluation`."""

    def files(self) -> dict[int, Path]:
        """Return the files by step; that of an evaluation is step 0."""
        return {0: self.path} if self.kind == "evaluation" else step_files(self.path)

    def read(self, step: int, file: Path) -> RecordedStep:
        """Read one of `files`, whose number counts; one that can't be read is a step without prompts that says so."""
        try:
            found = evaluated_step(read_run(file)) if self.kind == "evaluation" else read_step(file)
        except (OSError, ValueError) as error:
            return RecordedStep(step, problems=[str(error)])
        if found.step == step or not file.stem.isdecimal():
            return replace(found, step=step)
        other = f"{file} says that it is of step {found.step}; expected {step}, its name: is it of another run?"
        return replace(found, step=step, problems=[*found.problems, other])

    def steps(self) -> Iterator[RecordedStep]:
        """Yield the steps in order."""
        last = 0.0
        for step, file in self.files().items():
            found = self.read(step, file)
            if found.began and found.began < last:
                mixed = f"{file} began before the step before it: the files are of more than one run"
                found = replace(found, problems=[*found.problems, mixed])
            last = found.began or last
            yield found


def source_of(path: Path) -> Source:
    """Return what a path leads to.

    Raises:
        ValueError: there is nothing to look at; see `arpo_verl.record.step_files`.
    """
    if path.is_file():
        with path.open("rb") as file:
            is_evaluation = file.read(64).replace(b" ", b"").startswith(b'{"type":"run"')
        if is_evaluation:
            return Source(path, "evaluation")
    source = Source(path, "run")
    source.files()
    return source


def evaluated_step(run: Run) -> RecordedStep:
    """Return the samples of an evaluation as the leaves of their prompts, without segments and times of their own."""
    by_id: dict[str, list[SampleRecord]] = {}
    for sample in run.samples:
        by_id.setdefault(sample.id, []).append(sample)
    missing = run.header.expected_samples - len(run.samples)
    problems = [f"{missing} of {run.header.expected_samples} samples are missing"] if missing > 0 else []
    return RecordedStep(
        0, size=len(by_id), prompts=[_prompt(uid, samples) for uid, samples in by_id.items()], problems=problems
    )


def _prompt(uid: str, samples: list[SampleRecord]) -> RecordedPrompt:
    return RecordedPrompt(
        uid=uid,
        text=samples[0].question,
        segments=[
            RecordedSegment(
                text=one.output,
                tokens=one.response_tokens,
                calls=[RecordedCall(call.tool, call.status, call.seconds) for call in one.calls],
            )
            for one in samples
        ],
        leaves=[
            RecordedLeaf(
                key=f"{uid}_{one.sample}",
                number=one.sample,
                segments=(place,),
                stop_reason=one.stop_reason,
                parts={"error": one.error} if one.error else {},
            )
            for place, one in enumerate(samples)
        ],
        truth=samples[0].truths,
        source=samples[0].data_source,
    )
