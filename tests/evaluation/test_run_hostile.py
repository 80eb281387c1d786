"""Whatever a server sends, the client ends in time, within its memory, and with an error that says what was wrong."""

import asyncio
import gzip
import json
import time
import tracemalloc

import pytest
import stamina
from completion_server import ModelServer
from evaluated_world import evaluate, make_evaluated_world, words
from hostile_server import answering, completion, http
from hypothesis import given, settings
from hypothesis import strategies as st

from arpo_verl.evaluation.run.completions import CompletionServer, Endpoint, RequestTimeouts
from arpo_verl.evaluation.run.server_answers import (
    Completion,
    ServerFailed,
    ServerMisbehaved,
    ServerRefused,
    check_token_ids,
    completion_of,
    message_in,
)

PARAMETERS = {"max_tokens": 5, "return_token_ids": True}
VOCABULARY = 300


def complete(url: str, seconds: float = 10.0, key: str | None = None) -> Completion:
    async def ask() -> Completion:
        endpoint, timeouts = Endpoint.from_url(url, "tiny", key), RequestTimeouts(seconds, retry_seconds=0.1)
        async with CompletionServer(endpoint, timeouts, VOCABULARY) as client:
            return await client.complete([1, 2, 3], PARAMETERS)

    with stamina.set_testing(True, attempts=2):
        return asyncio.run(ask())


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(body), body)


OPEN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
BOMB = gzip.compress(b" " * (200 << 20), 1)
ENDLESS = {
    "an endless text": (OPEN + chunked(b'{"choices": [{"text": "'), chunked(b"x" * 60_000)),
    "endless white space": (OPEN, chunked(b" " * 60_000)),
    "an endless stream of events": (
        OPEN.replace(b"application/json", b"text/event-stream"),
        chunked(b'data: {"choices": [{"text": "x"}]}\n\n' * 1000),
    ),
    "a length that it can't have": (b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n", b"x" * 60_000),
    "a body without a length": (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"x" * 60_000),
    "a small body that grows": (http(BOMB, "Content-Encoding: gzip"), b""),
    "an endless refusal": (OPEN.replace(b"200 OK", b"400 Bad"), chunked(b"x" * 60_000)),
    "endless headers": (b"HTTP/1.1 200 OK\r\n", b"X-A: " + b"x" * 4000 + b"\r\n"),
    "an endless line": (b"HTTP/1.1 200 OK\r\nX-A: ", b"x" * 60_000),
    "an endless status": (b"HTTP/1.1 200 ", b"O" * 60_000),
}


@pytest.mark.parametrize("case", ENDLESS)
def test_an_answer_without_an_end_is_cut_off_within_time_and_memory(case):
    with answering(*ENDLESS[case]) as url:
        start = time.monotonic()
        tracemalloc.start()
        with pytest.raises((ServerFailed, ServerRefused)):
            complete(url)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert time.monotonic() - start < 8
    assert peak < 40 << 20


def test_a_server_that_sends_a_byte_now_and_then_is_given_up():
    late = pytest.raises(ServerFailed, match=r"no answer within 0\.3 s|no whole answer")
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{") as url, late:
        complete(url, seconds=0.3)


UNUSABLE = {
    "too many tokens": (completion(token_ids=[1] * 6), r"gave 6 tokens; expected at most max_tokens=5"),
    "a negative token": (completion(token_ids=[1, -1]), r"token id -1; expected ids from 0 below 300"),
    "a token beyond the model's": (completion(token_ids=[300]), "token id 300; expected ids from 0 below 300"),
    "a token of 25 digits": (completion(token_ids=[10**25]), "token id 10000000000000000000000000; expected"),
    "a boolean token": (completion(token_ids=[True]), r"`token_ids` are '\[True\]'; expected a list of integers"),
    "a fraction": (completion(token_ids=[1.5]), "expected a list of integers"),
    "a null token": (completion(token_ids=[None]), "expected a list of integers"),
    "a text as tokens": (completion(token_ids="12"), "expected a list of integers"),
    "a mapping as tokens": (completion(token_ids={"0": 1}), "expected a list of integers"),
    "a list of lists": (completion(token_ids=[[1]]), "expected a list of integers"),
    "a number as text": (completion(text=5), "`text` is '5'; expected text"),
    "a list as text": (completion(text=["a"]), "expected text"),
    "no text": (http(b'{"choices": [{"index": 0}]}'), "no completion"),
    "a chat's message": (http(b'{"choices": [{"message": {"content": "x"}}]}'), "no completion"),
    "no choice": (http(b'{"choices": []}'), "no completion"),
    "choices as a mapping": (http(b'{"choices": {"text": "x"}}'), "no completion"),
    "choices as text": (http(b'{"choices": "x"}'), "no completion"),
    "a null choice": (http(b'{"choices": [null]}'), "no completion"),
    "no choices": (http(b'{"error": {"message": "out of memory"}}'), "no completion.*out of memory"),
    "a list": (http(b"[]"), "no completion"),
    "a number": (http(b"5"), "no completion"),
    "null": (http(b"null"), "no completion"),
    "nothing": (http(b""), "invalid JSON"),
    "a page": (http(b"<html>", content_type="text/html"), "invalid JSON: '<html>'"),
    "deep lists": (http(b"[" * 100_000), "invalid JSON"),
    "a number of 10000 digits": (http(b"1" * 10_000), "invalid JSON"),
    "no Unicode": (http(b"\xff\xfe\xfa"), "invalid JSON"),
    "a given-up answer": (completion(finish_reason="abort"), "gave the answer up: `finish_reason` is 'abort'"),
    "a stream of events": (http(b'data: {"choices": []}\n\n', content_type="text/event-stream"), "invalid JSON"),
    "no gzip": (http(b"{}", "Content-Encoding: gzip"), "no whole answer"),
    "half a body": (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\nConnection: close\r\n\r\n{", "no whole answer"),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "no whole answer"),
    "no status": (b"HTTP/1.1 abc\r\n\r\n", "no whole answer"),
    "bytes": (bytes(range(256)) * 4, "no whole answer"),
    "no content": (b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", "HTTP 204"),
    "accepted": (http(b"{}", status="202 Accepted"), "HTTP 202"),
    "a strange status": (http(b"{}", status="999 What"), "HTTP 999"),
    "nonsense to wait for": (http(b"{}", "Retry-After: 1e999", status="429 No"), "HTTP 429"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_an_answer_that_is_none_says_what_was_wrong(case):
    answer, message = UNUSABLE[case]
    with answering(answer) as url, pytest.raises(ServerFailed, match=message) as failure:
        complete(url)
    assert str(failure.value).isprintable()


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"text": "a", "token_ids": [1]}, Completion("a", [1], "stop", None)),
        ({"text": None, "token_ids": []}, Completion("", [], "stop", None)),
        ({"text": "a", "finish_reason": 7, "stop_reason": {"a": 1}}, Completion("a", None, None, None)),
        ({"text": "a", "finish_reason": None, "stop_reason": True}, Completion("a", None, None, None)),
        ({"text": "a", "stop_reason": 151645}, Completion("a", None, "stop", 151645)),
        ({"text": "a\ud83d", "stop_reason": "</x>"}, Completion("a\N{REPLACEMENT CHARACTER}", None, "stop", "</x>")),
        ({"text": "a", "logprobs": {"token_logprobs": [float("nan"), None]}}, Completion("a", None, "stop", None)),
        ({"text": "a", "more": "x" * 1000}, Completion("a", None, "stop", None)),
    ],
)
def test_what_is_odd_and_not_needed_is_left_aside(choice, expected):
    with answering(completion(**choice)) as url:
        assert complete(url) == expected


def test_the_type_of_a_good_answer_does_not_matter():
    body = json.dumps({"choices": [{"text": "ä", "token_ids": [1]}]})
    for content in (body.encode("utf-8-sig"), body.encode("utf-16")):
        with answering(http(content, content_type="text/plain; charset=nonsense")) as url:
            assert complete(url).text == "ä"


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See", "307 Temporary", "308 Permanent", "300 Many"])
def test_a_redirect_is_not_followed_and_named(status):
    place = "https://user:secret@elsewhere.example/v1/completions"
    with answering(http(b"", f"Location: {place}", status=status)) as url, pytest.raises(ServerRefused) as refusal:
        complete(url, key="hidden-key")
    assert refusal.value.is_for_all
    assert "redirects to https://elsewhere.example/v1/completions" in str(refusal.value)
    assert "give the address itself as --base-url" in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_what_can_not_get_better_is_asked_once():
    with answering(completion(token_ids=[-1])) as url:
        start = time.monotonic()
        with pytest.raises(ServerMisbehaved):
            asyncio.run(_asked_patiently(url))
    assert time.monotonic() - start < 1


async def _asked_patiently(url: str) -> None:
    async with CompletionServer(
        Endpoint.from_url(url, "tiny"), RequestTimeouts(retry_seconds=60.0), VOCABULARY
    ) as client:
        await client.complete([1], PARAMETERS)


@pytest.mark.parametrize("secret", ["hidden-key", "user:pass-word"])
def test_a_secret_that_the_server_repeats_is_not_shown(secret):
    body = json.dumps({"error": {"message": f"Incorrect key {secret}\x1b[31m, \ud83d!"}}).encode()
    is_key = secret == "hidden-key"
    with answering(http(body, status="401 No")) as url, pytest.raises(ServerRefused) as refusal:
        complete(url if is_key else url.replace("//", f"//{secret}@"), key=secret if is_key else None)
    assert "Incorrect key ***" in str(refusal.value) and str(refusal.value).isprintable()
    assert secret not in str(refusal.value)


@pytest.mark.parametrize(
    ("cards", "context_length"),
    [({"data": [{"id": "tiny", "max_model_len": length}]}, None) for length in (True, 0, -5, 1.5, "512", None, [512])]
    + [({"data": [{"id": None}, {}, {"id": "tiny"}]}, None)],
)
def test_a_context_length_that_is_none_is_not_believed(cards, context_length):
    async def ask(url: str) -> int | None:
        async with CompletionServer(Endpoint.from_url(url, "tiny")) as client:
            return await client.find_model()

    with answering(b"", cards=cards) as url:
        assert asyncio.run(ask(url)) == context_length


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "token_ids", "choices"]), inner)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(JSON | st.builds(lambda one: {"choices": [one]}, JSON))
def test_any_json_is_a_completion_or_one_of_our_errors(answer):
    try:
        completion = completion_of(answer)
        check_token_ids(completion.token_ids, 2, VOCABULARY)
    except ServerFailed as error:
        assert str(error).isprintable()
    else:
        completion.text.encode()
        assert completion.token_ids is None or all(0 <= one < VOCABULARY for one in completion.token_ids)


@given(st.binary(max_size=200))
def test_any_body_of_an_error_has_a_message_that_can_be_shown(body):
    assert message_in(body).isprintable()


# ---- the whole command ----


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_evaluated_world(tmp_path_factory.mktemp("hostile-world"), rows=3)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (completion(token_ids=[10**12]), "the server gave the token id 1000000000000; expected ids from 0 below"),
        (completion(token_ids=[-7]), "the server gave the token id -7"),
        (completion(token_ids=[1, 2, 3]), "gave 3 tokens; expected at most max_tokens=1"),
        (completion(text=7), "`text` is '7'; expected text"),
        (http(b"", "Location: http://else.example", status="302 Found"), "redirects to http://else.example"),
    ],
)
def test_a_server_of_nonsense_ends_the_command_with_one_line(world, tmp_path, capsys, monkeypatch, answer, message):
    monkeypatch.setenv("ARPO_SEARCH_CORPUS", str(world / "corpus.jsonl"))
    out = tmp_path / "run.jsonl"
    with answering(answer) as url:
        assert evaluate(*words(world, ModelServer(url=url), out)) == 1
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
    assert not out.exists()


def test_a_text_beyond_max_tokens_is_cut_and_counted(world, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ARPO_SEARCH_CORPUS", str(world / "corpus.jsonl"))
    out = tmp_path / "run.jsonl"
    with answering(completion(text="7" * 500, finish_reason="stop")) as url:
        assert evaluate(*words(world, ModelServer(url=url), out)) == 0
    assert "3 answers had more than max_tokens tokens and were cut there" in capsys.readouterr().err
    samples = [json.loads(line) for line in out.read_text().splitlines()[1:]]
    assert [(one["generated_tokens"], one["stop_reason"]) for one in samples] == [(128, "length")] * 3
