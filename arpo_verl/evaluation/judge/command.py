"""Let a model judge the answers of an evaluation, over any OpenAI-compatible server.

Each reply is kept as it is in RUN.judge.jsonl as soon as it is there. A second call asks only about what has no reply
of this model yet; answers that are alike are asked about once. A response without an answer is wrong and is not asked
about.
"""

import argparse
import asyncio
import sys
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from arpo_tools.http.chat_client import ChatClient, ChatServer
from arpo_tools.http.retry import RetryPolicy
from arpo_verl.evaluation.judge.judgements import Judge, judgement_path, read_judgements
from arpo_verl.evaluation.judge.judging import JudgingProgress, judge_cases
from arpo_verl.evaluation.judge.prompt import PROMPT_HASH, Case, cases_of
from arpo_verl.evaluation.judge.reply import Verdict
from arpo_verl.evaluation.records import read_run

_ATTEMPTS = 4
_PERMANENT_REFUSALS = frozenset({404, 405})
"""Statuses of a wrong address or model name, which every later call would get too."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_file", type=Path, metavar="RUN.jsonl", help="what `arpo-verl eval run` wrote")
    parser.add_argument("--base-url", required=True, help="of the judge's server, such as http://localhost:8000/v1")
    parser.add_argument("--model", required=True, help="the judge, as the server names it")
    parser.add_argument("--key-variable", metavar="NAME", help="the environment variable that holds the server's key")
    parser.add_argument(
        "--data-source", action="append", default=[], metavar="NAME", help="judge this one only; may be given again"
    )
    parser.add_argument("--concurrency", type=_positive, default=16, help="calls at a time (default: %(default)s)")
    parser.add_argument("--max-tokens", type=_positive, default=4096, help="of a reply (default: %(default)s)")
    parser.add_argument(
        "--timeout-seconds", type=_positive, default=120, help="of one attempt of a call (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Judge, and return 0 if every answer has a reply."""
    path = judgement_path(arguments.run_file)
    try:
        cases = cases_of(read_run(arguments.run_file), arguments.data_source)
        progress = _judge(cases, path, arguments)
        print(_counts(cases, progress, path, arguments.model))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted: the replies so far are in {path}; call again to go on", file=sys.stderr)
        return 130
    if progress.unanswered:
        print(_shortfall(progress), file=sys.stderr)
    return 1 if progress.unanswered else 0


def _judge(cases: list[Case], path: Path, arguments: argparse.Namespace) -> JudgingProgress:
    server = ChatServer(arguments.base_url, arguments.model, arguments.key_variable, arguments.max_tokens)
    seconds = arguments.timeout_seconds
    policy = RetryPolicy(seconds, _ATTEMPTS * seconds, _ATTEMPTS)
    client = ChatClient("judge", server, policy, _PERMANENT_REFUSALS)
    columns = (TextColumn("judging"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("judging", total=len(cases))

        def show(progress: JudgingProgress) -> None:
            bar.update(task, completed=progress.reused + progress.replies)

        return asyncio.run(judge_cases(cases, arguments.model, client, path, arguments.concurrency, show))


def _counts(cases: list[Case], progress: JudgingProgress, path: Path, model: str) -> str:
    judge, asked = Judge(model, PROMPT_HASH), set(cases)
    verdicts = {one.case: one.verdict for one in read_judgements(path) if one.judge == judge and one.case in asked}
    counts = Counter(verdicts.values())
    listed = ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict)
    return (
        f"{progress.cases} different answers: {progress.reused} judged before, {progress.replies} now, "
        f"{progress.unanswered} without a reply\nverdicts: {listed} ({path})"
    )


def _shortfall(progress: JudgingProgress) -> str:
    if progress.refusal is not None:
        reason = f"stopped, since no later call would do better: {progress.refusal}"
    elif progress.is_given_up:
        reason = f"stopped after {progress.failures_in_a_row} failed calls in a row, the last: {progress.last_failure}"
    else:
        reason = f"the last failure: {progress.last_failure}"
    return f"error: {progress.unanswered} of {progress.cases} answers have no reply; {reason}. Call again to go on."


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r}; expected a whole number above 0")
    return int(text)
