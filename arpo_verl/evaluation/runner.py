"""Runs the samples of an evaluation, so many at a time, and keeps each as it ends.

Knows neither verl nor HTTP: a `Rollout` brings one response. A sample whose rollout fails is not written, so that the
next run takes it up again; a sample that the server refuses is written as one without a response.
"""

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from arpo_verl.evaluation.records import ERROR, CallRecord, SampleRecord
from arpo_verl.evaluation.run_file import RunFile
from arpo_verl.evaluation.server_answers import ServerFailed, ServerRefused
from arpo_verl.rollout.tasks import Tasks

FAILURES_IN_A_ROW = 20
"""After so many samples that failed with none between them that did not, the server is taken for gone."""


@dataclass(frozen=True)
class Prompt:
    """What the file keeps of a dataset row; `SampleRecord` says what each field is."""

    id: str
    data_source: str
    ability: str
    question: str
    truths: list[str]
    extra: dict[str, Any]


@dataclass(frozen=True)
class Response:
    """One response of the model."""

    output: str = ""
    calls: list[CallRecord] = field(default_factory=list)
    generated_tokens: int = 0
    response_tokens: int = 0
    stop_reason: str = ERROR


@dataclass(frozen=True)
class Task:
    """One sample to be run."""

    row: int
    """Number of the prompt in the dataset."""
    prompt: Prompt
    sample: int

    @property
    def key(self) -> tuple[str, int]:
        return self.prompt.id, self.sample


Rollout = Callable[[Task], Awaitable[Response]]
"""Raises `ServerFailed` or `ServerRefused`."""


@dataclass
class Progress:
    """Counts of this process, for whoever watches."""

    expected: int
    finished: int
    """Those of earlier runs included."""
    in_flight: int = 0
    failed: int = 0
    """Not written."""
    refused: int = 0
    """Written without a response."""
    calls: int = 0
    generated_tokens: int = 0
    last_problem: str | None = None
    """What the server said last when it failed or refused."""

    @property
    def missing(self) -> int:
        return self.expected - self.finished


class PromptError(Exception):
    """A prompt can't be asked under the run's settings."""


class ServerGone(Exception):
    """The server fails or refuses everything; going on would be of no use."""


def tasks_of(prompts: Sequence[Prompt], n: int) -> list[Task]:
    """Return the samples of a run in the order of a finished file."""
    return [Task(row, prompt, sample) for row, prompt in enumerate(prompts) for sample in range(n)]


class Runner:
    """Runs tasks and writes their samples."""

    def __init__(self, rollout: Rollout, file: RunFile, progress: Progress) -> None:
        self._rollout = rollout
        self._file = file
        self._progress = progress
        self._failures_in_a_row = 0

    async def run(self, tasks: Iterable[Task], concurrency: int) -> None:
        """Run the tasks that the file lacks.

        Raises:
            ServerGone: the run was given up.
        """
        waiting = (task for task in tasks if task.key not in self._file.finished)
        workers = Tasks()
        try:
            for _ in range(concurrency):
                workers.start(self._work(waiting))
            await workers.join()
        finally:
            await workers.close()

    async def _work(self, waiting: Iterator[Task]) -> None:
        for task in waiting:
            self._progress.in_flight += 1
            try:
                await self._run_one(task)
            finally:
                self._progress.in_flight -= 1

    async def _run_one(self, task: Task) -> None:
        start = time.monotonic()
        try:
            response, error = await self._rollout(task), None
        except ServerFailed as failure:
            self._progress.failed += 1
            self._count_failure(str(failure))
            return
        except ServerRefused as refusal:
            if refusal.is_for_all:
                raise ServerGone(str(refusal)) from None
            response, error = Response(), str(refusal)
        # Written first, because what is written is finished, whatever comes next.
        self._file.append(_record(task, response, error, time.monotonic() - start))
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


def _record(task: Task, response: Response, error: str | None, seconds: float) -> SampleRecord:
    prompt = task.prompt
    return SampleRecord(
        id=prompt.id,
        sample=task.sample,
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
