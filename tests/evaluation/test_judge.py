"""Asking the judge: what is kept whatever its server does. How replies are read is tested beside this."""

import asyncio
import json
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiohttp import web
from evaluated import header, samples, write_run
from tool_servers import Server, answer, cut_short, serving

from arpo_tools.http.chat_client import ChatClient, ChatServer
from arpo_tools.http.retry import RetryPolicy
from arpo_verl.evaluation.judge import command as judge_command
from arpo_verl.evaluation.judge.judgements import judgement_path, open_for_appending, read_judgements
from arpo_verl.evaluation.judge.judging import FAILURES_TO_GIVE_UP, judge_cases
from arpo_verl.evaluation.judge.prompt import PROMPT_HASH, Case


def judged(content: object) -> object:
    return answer({"choices": [{"message": {"content": content}}]})


YES, NO = judged("correct: yes"), judged("correct: no")


def client(server: Server, attempts: int = 1, max_tokens: int = 64) -> ChatClient:
    return ChatClient("judge", ChatServer(server.url, "m", max_tokens=max_tokens), RetryPolicy(2.0, 4.0, attempts))


def cases(*predictions: str) -> list[Case]:
    return [Case("Which city?", ("Paris",), prediction) for prediction in predictions]


async def ask(server: Server, path: Path, *predictions: str, model: str = "m", attempts: int = 1, concurrency: int = 1):
    return await judge_cases(
        cases(*predictions), model, client(server, attempts), path, concurrency, lambda progress: None
    )


def verdicts(path: Path) -> dict[str, str]:
    return {one.case.prediction: one.verdict.value for one in read_judgements(path)}


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "run.judge.jsonl"


async def test_the_request_is_at_temperature_0_and_the_raw_reply_is_kept(path):
    async with serving(judged("<think>hm</think>\ncorrect: yes")) as server:
        progress = await ask(server, path, "Paris")
    [request] = server.requests
    assert request["path"] == "/v1/chat/completions"
    assert request["json"]["temperature"] == 0.0
    assert request["json"]["model"] == "m"
    assert request["json"]["messages"] == [{"role": "user", "content": cases("Paris")[0].prompt}]
    assert (progress.replies, progress.unanswered) == (1, 0)
    assert json.loads(path.read_text()) == {
        "judge": "m",
        "prompt_hash": PROMPT_HASH,
        "question": "Which city?",
        "truths": ["Paris"],
        "prediction": "Paris",
        "verdict": "correct",
        "reply": "<think>hm</think>\ncorrect: yes",
    }


async def test_nothing_is_asked_twice(path):
    async with serving(YES, NO) as server:
        await ask(server, path, "Paris", "Rome", "Paris")
        progress = await ask(server, path, "Rome", "Paris")
    assert len(server.requests) == 2
    assert (progress.reused, progress.replies) == (2, 0)
    assert verdicts(path) == {"Paris": "correct", "Rome": "wrong"}


async def test_another_model_and_another_wording_are_asked_anew(path, monkeypatch):
    async with serving(YES) as server:
        await ask(server, path, "Paris")
        await ask(server, path, "Paris", model="other")
        monkeypatch.setattr("arpo_verl.evaluation.judge.judging.PROMPT_HASH", "another wording")
        await ask(server, path, "Paris")
    assert len(server.requests) == 3
    judges = {(one.judge.model, one.judge.prompt_hash) for one in read_judgements(path)}
    assert judges == {("m", PROMPT_HASH), ("other", PROMPT_HASH), ("m", "another wording")}


async def test_nonsense_and_empty_replies_are_kept_as_invalid(path):
    async with serving(judged("I am a teapot"), judged(None), judged("")) as server:
        progress = await ask(server, path, "a", "b", "c")
        again = await ask(server, path, "a", "b", "c")
    assert verdicts(path) == {"a": "invalid", "b": "invalid", "c": "invalid"}
    assert (progress.unanswered, again.reused) == (0, 3)


@pytest.mark.parametrize("fault", [answer("", 500), answer("", 503), answer("", 429, Retry_After="0"), cut_short])
async def test_a_passing_fault_is_tried_again(path, fault):
    async with serving(fault, YES) as server:
        progress = await ask(server, path, "Paris", attempts=3)
    assert progress.unanswered == 0
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [400, 422])
async def test_other_refusals_of_a_request_are_not_tried_again_and_leave_no_line(path, status):
    async with serving(answer("too long", status), YES) as server:
        progress = await ask(server, path, "Paris", "Rome", attempts=3)
    assert len(server.requests) == 2
    assert (progress.replies, progress.unanswered) == (1, 1)
    assert f"HTTP {status}" in progress.last_failure and "too long" in progress.last_failure
    assert verdicts(path) == {"Rome": "correct"}


@pytest.mark.parametrize(
    "body", ["no json", "null", '"text"', "{}", '{"choices": []}', '{"choices": [{"message": 1}]}']
)
async def test_what_is_no_chat_completion_is_no_reply(path, body):
    async with serving(answer(body)) as server:
        progress = await ask(server, path, "Paris")
    assert progress.unanswered == 1
    assert read_judgements(path) == []


@pytest.mark.parametrize("status", [401, 402, 403])
async def test_a_refused_key_stops_the_judging_and_keeps_what_is_there(path, status):
    async with serving(YES, answer("", status)) as server:
        progress = await ask(server, path, *"abcdef", attempts=3)
    assert len(server.requests) == 2
    assert (progress.replies, progress.unanswered) == (1, 5)
    assert f"HTTP {status}" in progress.refusal
    assert verdicts(path) == {"a": "correct"}


async def test_a_dead_server_is_given_up_and_asked_again_later(path):
    predictions = [str(number) for number in range(FAILURES_TO_GIVE_UP + 20)]
    async with serving(YES, answer("", 500)) as server:
        progress = await ask(server, path, *predictions)
        assert len(server.requests) == 1 + FAILURES_TO_GIVE_UP
        assert progress.unanswered == len(predictions) - 1
        assert progress.is_given_up and progress.refusal is None
    async with serving(NO) as server:
        progress = await ask(server, path, *predictions, concurrency=8)
    assert (progress.reused, progress.replies) == (1, len(predictions) - 1)
    assert len(verdicts(path)) == len(path.read_text().splitlines()) == len(predictions)


async def test_failures_between_replies_do_not_add_up(path):
    predictions = [str(number) for number in range(40)]
    async with serving(*[answer("", 500), YES] * 20) as server:
        progress = await ask(server, path, *predictions)
    assert (progress.replies, progress.unanswered) == (20, 20)


async def test_as_many_calls_run_at_a_time_as_were_asked_for(path):
    together = 0
    most = 0

    async def slow(request: web.Request) -> web.StreamResponse:
        nonlocal together, most
        together += 1
        most = max(most, together)
        await asyncio.sleep(0.05)
        together -= 1
        return await YES(request)

    async with serving(slow) as server:
        await ask(server, path, *"abcdefghijkl", concurrency=4)
    assert most == 4
    assert len(verdicts(path)) == 12


async def test_a_torn_line_is_cut_off_and_asked_again(path):
    async with serving(YES) as server:
        await ask(server, path, "Paris", "Rome")
        whole = path.read_bytes()
        path.write_bytes(whole[:-20])
        assert list(verdicts(path)) == ["Paris"]
        await ask(server, path, "Paris", "Rome")
    assert len(server.requests) == 3
    assert path.read_bytes() == whole


@pytest.mark.parametrize("line", ["garbage", "{}", "[]", '{"judge": 1}', "[" * 100_000])
async def test_a_line_that_is_no_judgement_is_named_and_nothing_is_asked(path, line):
    path.write_text(f"{line}\n")
    async with serving(YES) as server:
        with pytest.raises(ValueError, match=r"line 1: got .* expected a judgement"):
            await ask(server, path, "Paris")
    assert server.requests == []
    assert path.read_text() == f"{line}\n"


def test_two_judges_do_not_write_one_file(path):
    with open_for_appending(path), pytest.raises(ValueError, match="another process"), open_for_appending(path):
        pass


# ---- the command ----


def run_file(folder: Path) -> Path:
    records = [*samples("q0", "Paris", "Rome", None, "Paris"), *samples("q1", "Oslo", None, None, None)]
    return write_run(folder / "run.jsonl", header(prompts=2, n=4), records)


async def command(file: Path, url: str, **changes: object) -> int:
    arguments = {
        "run_file": file,
        "base_url": url,
        "model": "m",
        "key_variable": None,
        "data_source": [],
        "concurrency": 1,
        "max_tokens": 64,
        "timeout_seconds": 2,
        **changes,
    }
    # The command has an event loop of its own.
    return await asyncio.to_thread(judge_command.run, SimpleNamespace(**arguments))


async def test_the_command_judges_each_different_answer_once(tmp_path, capsys):
    file = run_file(tmp_path)
    async with serving(YES, NO, judged("?")) as server:
        assert await command(file, server.url) == 0
        assert await command(file, server.url) == 0
    assert len(server.requests) == 3
    first, second = capsys.readouterr().out.split("3 different answers: ")[1:]
    path = tmp_path / "run.judge.jsonl"
    assert first == f"0 judged before, 3 now, 0 without a reply\nverdicts: 1 correct, 1 wrong, 1 invalid ({path})\n"
    assert second.startswith("3 judged before, 0 now")


async def test_one_data_source_can_be_judged_alone(tmp_path):
    records = [*samples("q0", "Paris"), *samples("q1", "Oslo", data_source="simpleqa")]
    file = write_run(tmp_path / "run.jsonl", header(prompts=2, n=1), records)
    async with serving(YES) as server:
        assert await command(file, server.url, data_source=["simpleqa"]) == 0
    assert verdicts(judgement_path(file)) == {"Oslo": "correct"}


async def test_the_command_fails_with_a_count_if_an_answer_has_no_reply(tmp_path, capsys):
    async with serving(YES, answer("too long", 400), NO) as server:
        assert await command(run_file(tmp_path), server.url) == 1
    assert "error: 1 of 3 answers have no reply; the last failure: judge: HTTP 400" in capsys.readouterr().err


@pytest.mark.parametrize("status", [401, 404])
async def test_the_command_says_what_to_change_when_the_server_refuses(tmp_path, capsys, status):
    async with serving(answer("", status)) as server:
        assert await command(run_file(tmp_path), server.url) == 1
        message = capsys.readouterr().err
        assert len(server.requests) == 1
    assert f"refused with HTTP {status}: check base_url {server.url}, model m; set key_variable" in message
    assert "3 of 3 answers have no reply; stopped" in message


async def test_the_key_is_sent_and_never_shown(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "s3cr3t")
    async with serving(answer("your key s3cr3t is odd", 400)) as server:
        await command(run_file(tmp_path), server.url, key_variable="JUDGE_KEY")
    assert server.requests[0]["headers"]["Authorization"] == "Bearer s3cr3t"
    assert "s3cr3t" not in str(capsys.readouterr())


async def test_a_server_that_is_not_there_is_an_error_within_seconds(tmp_path, capsys):
    async with serving(YES) as server:
        pass
    assert await command(run_file(tmp_path), server.url, concurrency=3) == 1
    assert "3 of 3 answers have no reply" in capsys.readouterr().err


@pytest.mark.slow
async def test_a_judging_that_is_killed_again_and_again_ends_as_an_uninterrupted_one(tmp_path):
    predictions = [str(number) for number in range(60)]
    records = [record for one in predictions for record in samples(one, one)]
    file = write_run(tmp_path / "run.jsonl", header(prompts=60, n=1), records)

    async def slow(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.1)
        prompt = (await request.json())["messages"][0]["content"]
        return await judged(f"it is {prompt[-500:]}\ncorrect: yes")(request)

    code = (
        "import argparse, sys; from arpo_verl.evaluation.judge import command\n"
        "parser = argparse.ArgumentParser(); command.add_arguments(parser)\n"
        "sys.exit(command.run(parser.parse_args()))"
    )
    async with serving(slow) as server:
        words = [str(file), "--base-url", server.url, "--model", "m", "--concurrency", "3"]
        path = judgement_path(file)
        for replies in (5, 20, 40):
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, *words)
            while not path.exists() or path.read_bytes().count(b"\n") < replies:
                await asyncio.sleep(0.01)
            process.kill()
            assert await process.wait() == -signal.SIGKILL
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, *words)
        assert await process.wait() == 0
        # Of each killed process, only the calls that were under way are made again.
        assert 60 <= len(server.requests) <= 60 + 3 * 3
    judgements = read_judgements(path)
    assert sorted(one.case.prediction for one in judgements) == sorted(predictions)
    assert path.read_bytes().count(b"\n") == len(judgements) == 60


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_url": "localhost:8000"}, "expected http://host:port"),
        ({"key_variable": "NO_SUCH_VARIABLE"}, "NO_SUCH_VARIABLE holds no key"),
        ({"data_source": ["gaia"]}, "no sample is of gaia; the run has hotpotqa"),
        ({"run_file": Path("no/such.jsonl")}, "no/such.jsonl"),
    ],
)
async def test_bad_settings_are_named_before_anything_is_asked(tmp_path, capsys, changes, message):
    assert await command(**{"file": run_file(tmp_path), "url": "http://localhost:1", **changes}) == 1
    assert message in capsys.readouterr().err
    assert not judgement_path(tmp_path / "run.jsonl").exists()


def test_the_judges_file_lies_beside_the_run():
    assert judgement_path(Path("runs/a.b.jsonl")) == Path("runs/a.b.judge.jsonl")
