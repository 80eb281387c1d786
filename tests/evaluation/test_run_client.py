"""The client of `/v1/completions` against a real HTTP server, in health and in sickness."""

import asyncio
import time

import pytest
import stamina
from completion_server import CUT, GARBAGE, HANG, serving
from hydra import compose, initialize_config_module

from arpo_verl.evaluation.run.completions import CompletionServer, Endpoint, RequestTimeouts, ServerCapabilities
from arpo_verl.evaluation.run.completions_client import CompletionsClient
from arpo_verl.evaluation.run.server_answers import Completion, ServerFailed, ServerRefused
from arpo_verl.rollout.tool_text import valid_text
from arpo_verl.tiny_world.model import make_tokenizer

TOKENIZER = make_tokenizer()
PROMPT = TOKENIZER.encode("<|user|>2*3?<|im_end|><|assistant|>", add_special_tokens=False)
CALL = "<python>2*3</python>"
PARAMETERS = {"max_tokens": 50, "return_token_ids": True, "stop": ["</python>"]}


def complete(url: str, timeouts: RequestTimeouts | None = None, key: str | None = None):
    async def ask():
        async with CompletionServer(Endpoint.from_url(url, "tiny", key), timeouts) as client:
            return await client.complete(PROMPT, PARAMETERS)

    return asyncio.run(ask())


def find_model(url: str, model: str = "tiny", key: str | None = None, timeouts: RequestTimeouts | None = None):
    async def ask():
        async with CompletionServer(Endpoint.from_url(url, model, key), timeouts) as client:
            return await client.find_model(), await client.probe(PROMPT, {})

    return asyncio.run(ask())


@pytest.fixture
def retries_without_waits():
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


def test_token_ids_come_back_with_the_stop_string():
    with serving() as server:
        completion = complete(server.url)
    assert TOKENIZER.decode(completion.token_ids) == completion.text == CALL
    assert (completion.finish_reason, completion.stop_reason) == ("stop", "</python>")


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/"])
def test_an_address_may_end_in_v1(ending):
    with serving() as server:
        assert find_model(server.url + ending) == (512, True)


def test_what_the_server_can_is_found_out():
    with serving(context_length=None, gives_token_ids=False) as server:
        assert find_model(server.url) == (None, False)
        assert server.requests[0]["max_tokens"] == 1


@pytest.mark.parametrize("fault", [429, 500, 502, 503, CUT, GARBAGE])
def test_a_fault_that_may_pass_is_tried_again(retries_without_waits, fault):
    with serving(fault=lambda number, body: fault if number < 2 else None) as server:
        assert complete(server.url).text == CALL
        assert len(server.requests) == 3
        assert server.requests[0] == server.requests[2]


def test_trying_again_ends():
    with serving(fault=lambda number, body: 500) as server:
        start = time.monotonic()
        with pytest.raises(ServerFailed, match="HTTP 500: fault 500"):
            complete(server.url, RequestTimeouts(retry_seconds=1.5))
        assert time.monotonic() - start < 6
        assert len(server.requests) >= 2


def test_a_server_that_says_when_is_asked_then():
    with serving(fault=lambda number, body: 429 if number == 0 else None, headers={"Retry-After": "1"}) as server:
        start = time.monotonic()
        assert complete(server.url).text == CALL
        assert 1 <= time.monotonic() - start < 5
    with serving(fault=lambda number, body: 429, headers={"Retry-After": "3600"}) as server:
        with pytest.raises(ServerFailed, match="429"):
            complete(server.url)
        assert len(server.requests) == 1  # an hour is more than it may take


def test_a_server_that_hangs_is_given_up():
    with serving(fault=lambda number, body: HANG) as server, pytest.raises(ServerFailed, match=r"within 0\.3 s"):
        complete(server.url, RequestTimeouts(request_seconds=0.3, retry_seconds=0.5))


@pytest.mark.parametrize(("status", "is_for_all"), [(400, False), (422, False), (401, True), (403, True), (404, True)])
def test_a_refusal_is_not_tried_again(status, is_for_all):
    with serving(fault=lambda number, body: status) as server:
        with pytest.raises(ServerRefused, match=f"HTTP {status}: fault {status}") as refusal:
            complete(server.url)
        assert refusal.value.is_for_all is is_for_all
        assert len(server.requests) == 1


def test_a_key_is_sent_and_never_shown():
    with serving(key="hidden-key") as server:
        assert find_model(server.url, key="hidden-key") == (512, True)
        with pytest.raises(ServerRefused, match=r"401: who are you\?: set OPENAI_API_KEY") as refusal:
            find_model(server.url, key="other-key")
    assert "other-key" not in f"{refusal.value}{Endpoint.from_url(server.url, 'tiny', 'other-key')}"


def test_no_server_is_found_out_at_once():
    with serving() as server:
        url = server.url
    start = time.monotonic()
    with pytest.raises(ServerFailed, match="expected a running server: start it, or correct --base-url"):
        find_model(url)
    assert time.monotonic() - start < 5


def test_another_model_is_an_error_that_names_those_there_are():
    message = "does not serve 'tiny'; expected one of large, small"
    with serving(models=("large", "small")) as server, pytest.raises(ServerRefused, match=message):
        find_model(server.url)


@pytest.mark.parametrize(
    "url", ["host:8000", "ftp://host", "http://", "", "http://host?key=1", "http://host:x", "http://host:99999"]
)
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(ValueError, match="expected something like http://host:8000"):
        Endpoint.from_url(url, "tiny")


def test_the_shown_address_has_no_secrets():
    endpoint = Endpoint.from_url("https://user:secret@[::1]:8000/proxy/v1", "tiny")
    assert endpoint.public_url == "https://[::1]:8000/proxy"


@pytest.mark.parametrize("text", ["It is \ud83d", "\udcff<python>1</python>", "\ud83d\ude00"], ids=ascii)
def test_a_surrogate_in_a_servers_text_fails_no_sample(text):
    with initialize_config_module("arpo_verl.config", version_base=None):
        config = compose("arpo_trainer", overrides=["actor_rollout_ref.model.path=/no/model"])
    client = CompletionsClient(config, None, ServerCapabilities(gives_token_ids=False, context_length=None))
    client.tokenizer = TOKENIZER
    ids = client._encode(Completion(text, None, "length", None), [])
    assert TOKENIZER.decode(ids) == valid_text(text)
