"""Asks a judge about cases, several at a time, and keeps each reply at once. Never asks again what the file answers."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from arpo_tools.chat_client import ChatClient
from arpo_tools.search.passage import SearchError
from arpo_tools.tool import ToolStatus
from arpo_verl.evaluation.judge import PROMPT_HASH, Case
from arpo_verl.evaluation.judgements import Judge, Judgement, JudgementFile, appending, read_judgements

FAILURES_TO_GIVE_UP = 10
"""Calls in a row, each with its retries, after which the server counts as dead."""


@dataclass
class Progress:
    """How far the judging has got."""

    cases: int
    reused: int = 0
    """Answered by the file."""
    replies: int = 0
    """New ones."""
    last_failure: str | None = None
    """Why a call had no answer."""
    failures_in_a_row: int = 0
    refusal: str | None = None
    """Why no later call would do better."""

    @property
    def unanswered(self) -> int:
        return self.cases - self.reused - self.replies

    @property
    def is_hopeless(self) -> bool:
        return self.refusal is not None or self.failures_in_a_row >= FAILURES_TO_GIVE_UP

    def count(self, error: SearchError | None) -> None:
        """Take note of one call's end."""
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
    on_progress: Callable[[Progress], None],
) -> Progress:
    """Ask about each case that the file has no reply of this model to, under the prompt's present wording.

    A call without an answer leaves no line, so that another run asks again. After a refusal, and after
    `FAILURES_TO_GIVE_UP` calls in a row without an answer, no further call is begun.

    Raises:
        ValueError: the file has a line that is no judgement, or another process writes it.
    """
    judge = Judge(model, PROMPT_HASH)
    with appending(path) as file:
        known = {judgement.case for judgement in read_judgements(path) if judgement.judge == judge}
        all_cases = list(dict.fromkeys(cases))
        missing = [case for case in all_cases if case not in known]
        progress = Progress(len(all_cases), reused=len(all_cases) - len(missing))
        waiting = iter(missing)

        async def work() -> None:
            for case in waiting:
                if progress.is_hopeless:
                    return
                progress.count(await _judge_one(case, judge, client, file))
                on_progress(progress)

        await asyncio.gather(*(work() for _ in range(concurrency)))
    return progress


async def _judge_one(case: Case, judge: Judge, client: ChatClient, file: JudgementFile) -> SearchError | None:
    try:
        reply = await client.ask(case.prompt)
    except SearchError as error:
        return error
    file.append(Judgement(judge, case, reply))
    return None
