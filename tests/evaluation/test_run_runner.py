"""The runner of an evaluation: what is written, what is not, and when it gives up."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from evaluation_records import HEADER
from hypothesis import given, settings
from hypothesis import strategies as st

from arpo_verl.evaluation.records import CallRecord, Run, read_run
from arpo_verl.evaluation.run.progress import RunProgress, description
from arpo_verl.evaluation.run.run_file import open_run_file
from arpo_verl.evaluation.run.runner import (
    FAILURES_IN_A_ROW,
    PendingSample,
    Prompt,
    Response,
    Runner,
    ServerGone,
    pending_samples,
)
from arpo_verl.evaluation.run.server_answers import ServerFailed, ServerRefused


def tasks(prompts: int, n: int = 1) -> list[PendingSample]:
    return pending_samples(
        [Prompt(f"p{row}", "source", "maths", f"{row}?", [str(row)], {}) for row in range(prompts)], n
    )


def respond(task: PendingSample) -> Response:
    return Response(f"answer {task.row}.{task.sample}", [CallRecord("python", "ok", 0.5)], 3, 8, "completed")


def run(
    path: Path, todo: list[PendingSample], answer: Callable[[PendingSample], Response], concurrency: int = 4
) -> RunProgress:
    """Run once; what the runner raises comes out, with the counts on it."""

    async def rollout(task: PendingSample) -> Response:
        await asyncio.sleep(0)
        return answer(task)

    with open_run_file(path, HEADER, [task.key for task in todo]) as file:
        progress = RunProgress(len(todo), len(file.finished))
        asyncio.run(Runner(rollout, file, progress).run(todo, concurrency))
        if not progress.missing:
            file.sort([task.key for task in todo])
    return progress


def test_every_sample_of_every_prompt_is_written_once(tmp_path):
    progress = run(tmp_path / "run.jsonl", tasks(5, n=3), respond)
    written = read_run(tmp_path / "run.jsonl").samples
    assert [one.key for one in written] == [(f"p{row}", sample) for row in range(5) for sample in range(3)]
    assert [one.output for one in written] == [f"answer {row}.{sample}" for row in range(5) for sample in range(3)]
    assert (progress.missing, progress.calls, progress.generated_tokens, progress.in_flight) == (0, 15, 45, 0)


def test_no_more_samples_are_in_flight_than_asked(tmp_path):
    in_flight, most = 0, 0

    async def rollout(task: PendingSample) -> Response:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        await asyncio.sleep(0.001)
        in_flight -= 1
        return respond(task)

    with open_run_file(tmp_path / "run.jsonl", HEADER, [task.key for task in tasks(20)]) as file:
        asyncio.run(Runner(rollout, file, RunProgress(20, 0)).run(tasks(20), concurrency=7))
    assert most == 7


def test_a_failed_sample_is_not_written_and_runs_again(tmp_path):
    path, todo = tmp_path / "run.jsonl", tasks(10)

    def fail_some(task: PendingSample) -> Response:
        if task.row in (2, 7):
            raise ServerFailed("HTTP 500")
        return respond(task)

    progress = run(path, todo, fail_some)
    assert (progress.missing, progress.failed, progress.last_problem) == (2, 2, "HTTP 500")
    asked = []
    assert run(path, todo, lambda task: asked.append(task.row) or respond(task)).missing == 0
    assert asked == [2, 7]
    assert [one.id for one in read_run(path).samples] == [f"p{row}" for row in range(10)]


def test_a_refused_sample_is_written_without_a_response(tmp_path):
    def refuse_one(task: PendingSample) -> Response:
        if task.row == 1:
            raise ServerRefused("HTTP 400: too long", is_for_all=False)
        return respond(task)

    progress = run(tmp_path / "run.jsonl", tasks(3), refuse_one)
    refused = read_run(tmp_path / "run.jsonl").samples[1]
    assert (refused.output, refused.stop_reason, refused.error) == ("", "error", "HTTP 400: too long")
    assert (progress.missing, progress.refused) == (0, 1)


def test_a_refusal_of_everything_ends_the_run_and_keeps_what_is_done(tmp_path):
    def refuse(task: PendingSample) -> Response:
        if task.row == 5:
            raise ServerRefused("HTTP 401: who are you?", is_for_all=True)
        return respond(task)

    with pytest.raises(ServerGone, match="401"):
        run(tmp_path / "run.jsonl", tasks(50), refuse, concurrency=1)
    assert len(read_run(tmp_path / "run.jsonl").samples) == 5


@pytest.mark.parametrize("problem", [ServerFailed("gone"), ServerRefused("no", is_for_all=False)])
def test_failures_in_a_row_end_the_run(tmp_path, problem):
    asked = []

    def fail(task: PendingSample) -> Response:
        asked.append(task.row)
        if task.row >= 3:
            raise problem
        return respond(task)

    with pytest.raises(ServerGone, match=f"{FAILURES_IN_A_ROW} samples in a row have failed"):
        run(tmp_path / "run.jsonl", tasks(100), fail, concurrency=1)
    assert len(asked) == 3 + FAILURES_IN_A_ROW


def test_failures_between_successes_do_not_end_the_run(tmp_path):
    def fail_most(task: PendingSample) -> Response:
        if task.row % FAILURES_IN_A_ROW:
            raise ServerFailed("HTTP 500")
        return respond(task)

    assert run(tmp_path / "run.jsonl", tasks(100), fail_most, concurrency=1).missing == 95


def test_a_defect_of_ours_is_raised_and_what_is_done_is_kept(tmp_path):
    def break_down(task: PendingSample) -> Response:
        return respond(task) if task.row < 4 else respond(None)

    with pytest.raises(AttributeError):
        run(tmp_path / "run.jsonl", tasks(10), break_down, concurrency=1)
    assert len(read_run(tmp_path / "run.jsonl").samples) == 4


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 3), st.integers(1, 5))
def test_however_often_it_fails_the_file_ends_the_same(tmp_path_factory, seed, prompts, n, concurrency):
    path, todo = tmp_path_factory.mktemp("run") / "run.jsonl", tasks(prompts, n)
    generator = random.Random(seed)

    def fail_at_random(task: PendingSample) -> Response:
        if generator.random() < 0.5:
            raise ServerFailed("HTTP 500")
        return respond(task)

    while run(path, todo, fail_at_random, concurrency).missing:
        # Killed in the middle of a line.
        if path.exists() and generator.random() < 0.5:
            content = path.read_bytes()
            path.write_bytes(content[: generator.randrange(len(content))])
    other = path.with_name("whole.jsonl")
    run(other, todo, respond)
    assert untimed(read_run(path)) == untimed(read_run(other))


def test_counts_are_put_in_words_without_zeros():
    progress = RunProgress(100, 40, in_flight=3, calls=7, generated_tokens=90, failed=1)
    assert description(progress) == "3 in flight, 7 tool calls, 90 tokens, 1 failed"


def untimed(of: Run) -> list[tuple]:
    return [(one.key, one.output, one.stop_reason) for one in of.samples]
