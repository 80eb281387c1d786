"""Runs the samples of an evaluation concurrently and writes each when it ends.

Depends on neither verl nor HTTP: a `Rollout` returns one response. A sample whose rollout fails is not written, so that
the next run tries it again; a sample that the server refuses is written as one without a response.
"""

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from arpo_verl.evaluation.data_files import Prompt
from arpo_verl.evaluation.records import ERROR, CallRecord, SampleRecord
from arpo_verl.evaluation.run.progress import RunProgress
from arpo_verl.evaluation.run.run_file import RunFile
from arpo_verl.evaluation.run.server_answers import ServerFailed, ServerRefused
from arpo_verl.rollout.tasks import Tasks

FAILURES_IN_A_ROW = 20
"""The number of failures in a row after which the run is given up."""


@dataclass(frozen=True)
class Response:
    """One response of the model."""

    output: str = ""
    calls: list[CallRecord] = field(default_factory=list)
    generated_tokens: int = 0
    response_tokens: int = 0
    stop_reason: str = ERROR


@dataclass(frozen=True)
class PendingSample:
    """One sample that the run has to generate."""

    row: int
    """The number of the prompt's row in the dataset."""
    prompt: Prompt
    sample: int

    @property
    def key(self) -> tuple[str, int]:
        return self.prompt.id, self.sample


Rollout = Callable[[PendingSample], Awaitable[Response]]
"""A function that generates one response; it raises `ServerFailed` or `ServerRefused`."""


class PromptError(Exception):
    """A prompt can't be asked under the run's settings."""


class ServerGone(Exception):
    """The server fails or refuses every request, so that the run is given up."""


def pending_samples(prompts: Sequence[Prompt], n: int) -> list[PendingSample]:
    """Return the samples of a run in the order of a finished file."""
    return [PendingSample(row, prompt, sample) for row, prompt in enumerate(prompts) for sample in range(n)]


class Runner:
    """Runs pending samples and writes their records."""

    def __init__(self, rollout: Rollout, file: RunFile, progress: RunProgress) -> None:
        self._rollout = rollout
        self._file = file
        self._progress = progress
        self._failures_in_a_row = 0

    async def run(self, samples: Iterable[PendingSample], concurrency: int) -> None:
        """Run the samples that the file lacks.

        Raises:
            ServerGone: the run was given up.
        """
        waiting = (sample for sample in samples if sample.key not in self._file.finished)
        workers = Tasks()
        try:
            for _ in range(concurrency):
                workers.start(self._work(waiting))
            await workers.join()
        finally:
            await workers.close()

    async def _work(self, waiting: Iterator[PendingSample]) -> None:
        for sample in waiting:
            self._progress.in_flight += 1
            try:
                await self._run_one(sample)
            finally:
                self._progress.in_flight -= 1

    async def _run_one(self, sample: PendingSample) -> None:
        start = time.monotonic()
        try:
            response, error = await self._rollout(sample), None
        except ServerFailed as failure:
            self._progress.failed += 1
            self._count_failure(str(failure))
            return
        except ServerRefused as refusal:
            if refusal.is_for_all:
                raise ServerGone(str(refusal)) from None
            response, error = Response(), str(refusal)
        # Written first, because what is written is finished, whatever comes next.
        self._file.append(_record(sample, response, error, time.monotonic() - start))
        self._progress.finished += 1
        self._progress.calls += len(response.calls)
        self._progress.generated_tokens += response.generated_tokens
        if error is None:
            self._failures_in_a_row = 0
        else:
            self._progress.refused += 1
            self._count_failure(error)

    def _count_failure(self, problem: str) -> None:
        self._progress.last_problem = problem
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= FAILURES_IN_A_ROW:
            raise ServerGone(f"{FAILURES_IN_A_ROW} samples in a row have failed, the last one because {problem}")


def _record(sample: PendingSample, response: Response, error: str | None, seconds: float) -> SampleRecord:
    prompt = sample.prompt
    return SampleRecord(
        id=prompt.id,
        sample=sample.sample,
        data_source=prompt.data_source,
        ability=prompt.ability,
        question=prompt.question,
        truths=prompt.truths,
        output=response.output,
        calls=response.calls,
        generated_tokens=response.generated_tokens,
        response_tokens=response.response_tokens,
        stop_reason=response.stop_reason,
        error=error,
        seconds=round(seconds, 3),
        extra=prompt.extra,
    )
