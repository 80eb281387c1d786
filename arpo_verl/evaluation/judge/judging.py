"""Asks a judge about cases, several at a time, and writes each reply at once. Cases in the file are not asked again."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from arpo_tools.http.chat_client import ChatClient
from arpo_tools.http.service import ServiceError
from arpo_tools.tool import ToolStatus
from arpo_verl.evaluation.judge.judgements import Judge, Judgement, JudgementFile, open_for_appending, read_judgements
from arpo_verl.evaluation.judge.prompt import PROMPT_HASH, Case

FAILURES_TO_GIVE_UP = 10
"""The number of failed calls in a row, each with its retries, after which judging stops."""


@dataclass
class JudgingProgress:
    """The progress of judging: its counts, and its last errors."""

    cases: int
    reused: int = 0
    """The number of cases that the file answers."""
    replies: int = 0
    """The number of new replies."""
    last_failure: str | None = None
    """The error of the last call without an answer."""
    failures_in_a_row: int = 0
    refusal: str | None = None
    """The error of a refusal, which every later call would get too."""

    @property
    def unanswered(self) -> int:
        return self.cases - self.reused - self.replies

    @property
    def is_given_up(self) -> bool:
        return self.refusal is not None or self.failures_in_a_row >= FAILURES_TO_GIVE_UP

    def count(self, error: ServiceError | None) -> None:
        """Count the end of one call."""
        if error is None:
            self.replies += 1
            self.failures_in_a_row = 0
            return
        self.last_failure = str(error)
        self.failures_in_a_row += 1
        if error.status is ToolStatus.REFUSED:
            self.refusal = str(error)


async def judge_cases(
    cases: Iterable[Case],
    model: str,
    client: ChatClient,
    path: Path,
    concurrency: int,
    on_progress: Callable[[JudgingProgress], None],
) -> JudgingProgress:
    """Ask about each case that the file has no reply of this model to, under the prompt's present wording.

    A call without an answer leaves no line, so that another run asks again. After a refusal, and after
    `FAILURES_TO_GIVE_UP` calls in a row without an answer, no further call is begun.

    Raises:
        ValueError: the file has a line that is not a judgement, or another process writes it.
    """
    judge = Judge(model, PROMPT_HASH)
    with open_for_appending(path) as file:
        known = {judgement.case for judgement in read_judgements(path) if judgement.judge == judge}
        all_cases = list(dict.fromkeys(cases))
        missing = [case for case in all_cases if case not in known]
        progress = JudgingProgress(len(all_cases), reused=len(all_cases) - len(missing))
        waiting = iter(missing)

        async def work() -> None:
            for case in waiting:
                if progress.is_given_up:
                    return
                progress.count(await _judge_one(case, judge, client, file))
                on_progress(progress)

        await asyncio.gather(*(work() for _ in range(concurrency)))
    return progress


async def _judge_one(case: Case, judge: Judge, client: ChatClient, file: JudgementFile) -> ServiceError | None:
    try:
        reply = await client.ask(case.prompt)
    except ServiceError as error:
        return error
    file.append(Judgement(judge, case, reply))
    return None
