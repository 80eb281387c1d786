"""The one redaction: by table, and through every tool, with secrets in user, password, query, header and body."""

import base64
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import stamina
from aiohttp import web
from cached import key
from search_cases import CASES, Case
from tool_servers import answer, never, page, serving

from arpo_tools import ToolResult, ToolStatus
from arpo_tools.cache import SearchCache
from arpo_tools.http.chat_client import ChatClient, ChatServer
from arpo_tools.http.retry import RetryPolicy
from arpo_tools.http.service import ServiceError
from arpo_tools.page_browser import PageBrowser
from arpo_tools.redaction import Secrets, log_failure, redact, without_credentials
from arpo_tools.remote_python import RemotePython
from arpo_tools.search import open_search
from arpo_verl.doctor.finding import Finding, Status

USER, PASSWORD, TOKEN, KEY = "aliceuser", "pa55/w%rd", "t0ken-in-query", "k3y-in-header"
ENCODED = "pa55%2Fw%25rd"
SECRETS = (
    *(USER, PASSWORD, ENCODED, TOKEN, KEY, ENCODED.lower()),
    base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode(),
)


def is_clean(*texts: object) -> bool:
    return not [secret for secret in SECRETS for text in texts if secret in str(text)]


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("https://user:pass@host/x", "https://***@host/x"),
        ("can't reach https://u:p@h:1, nor http://v:q@i", "can't reach https://***@h:1, nor http://***@i"),
        ("https://u:p/w@h/x", "https://***@h/x"),
        ("https://u:p@w@h/", "https://***@h/"),
        ("https://token@h/", "https://***@h/"),
        ("redis://:pass@h/0", "redis://***@h/0"),
        ("URL('https://u:p%40@h')", "URL('https://***@h')"),
        ("https://h/p?api_key=abc&q=1 ok", "https://h/p?api_key=***&q=1 ok"),
        ("https://h/p?q=1&access_token=abc", "https://h/p?q=1&access_token=***"),
        ("https://h/p?X-Amz-Signature=abc#x", "https://h/p?X-Amz-Signature=***"),
        ("Authorization: Bearer abc.def", "Authorization: ***"),
        ("{'Authorization': 'Basic dXNlcg==', 'X': 1}", "{'Authorization': '***', 'X': 1}"),
        ("<CIMultiDict('X-API-KEY': 'abc', 'q': 'z')>", "<CIMultiDict('X-API-KEY': '***', 'q': 'z')>"),
        ('{"password": "a\\"b", "n": 1}', '{"password": "***", "n": 1}'),
        ('{\\"api_key\\": \\"abc\\"}', '{\\"api_key\\": \\"***\\"}'),
        ("Cookie: sid=1; x=2", "Cookie: ***"),
        ("x-subscription-token: abc", "x-subscription-token: ***"),
        ("https:\\/\\/u:p@h", "https:\\/\\/***@h"),
        ("HTTPS_PROXY=http://u:p@proxy:3128", "HTTPS_PROXY=http://***@proxy:3128"),
        ("OPENAI_API_KEY=sk-abc", "OPENAI_API_KEY=***"),
        ("SERPER_API_KEY: 'abc'", "SERPER_API_KEY: ***"),
        ("password: hunter2, host: x", "password: ***, host: x"),
        ("Authorization=Bearer x1", "Authorization=***"),
        ("Invalid API key provided: sk-abc123def456789", "Invalid API key provided: ***"),
        ("BasicAuth(login='u', password='p', encoding='x')", "BasicAuth(login='u', password=***, encoding='x')"),
        ("sent Bearer sk-12345", "sent Bearer ***"),
        ("db_password=abc, host=x", "db_password=***, host=x"),
    ],
)
def test_what_looks_like_a_credential_is_struck_from_a_message(text, redacted):
    assert redact(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "see https://medium.com/@name/post and mail me@example.org",
        "http://host:8000/@me, http://[::1]:80/@x",
        "max_tokens=512, key_variable: x, eos token: 151643",
        "check the key in the environment variable SERPER_API_KEY",
        "arpo.max_requests_in_flight=3 tokenizer=abc monkey=1",
        "unexpected token: <, in Basic English",
        "",
    ],
)
def test_other_text_stays_as_it_is(text):
    assert redact(text) == text


@pytest.mark.parametrize(
    "spelling",
    [
        'pä"ss/w',
        "p%C3%A4%22ss%2Fw",
        "p%c3%a4%22ss%2fw",
        'p\\u00e4\\"ss/w',
        "pä&quot;ss/w",
        repr('pä"ss/w'),
        base64.b64encode('us@er:pä"ss/w'.encode()).decode(),
    ],
)
def test_a_known_secret_is_struck_in_every_spelling(spelling):
    secrets = Secrets.of_service("https://us%40er:p%C3%A4%22ss%2Fw@h/")
    assert secrets.redact_message(f"x {spelling} y") in ("x *** y", "x '***' y")
    assert secrets.redact_content(f"x {spelling} y") in ("x *** y", "x '***' y")


def test_short_secrets_and_user_names_stay_in_content_where_they_may_be_words():
    secrets = Secrets.of_service("https://admin:a1@h/?lang=en&token=abc123xyz", ["key"])
    assert (
        secrets.redact_content("the admin has a key, abc123xyz, in English") == "the admin has a key, ***, in English"
    )
    assert secrets.redact_message("the admin has a key") == "the *** has a ***"
    assert "admin" not in repr(secrets)


def test_a_url_is_shown_without_credentials_and_query():
    assert without_credentials("https://a:b@h:1/p?x=1&y") == "https://h:1/p?x=***&y=***"
    assert without_credentials("http://host:8000/v1") == "http://host:8000/v1"


def test_long_texts_are_redacted_in_time():
    for text in ("a" * 300_000, "x-" * 150_000, "http://" * 40_000, "'" * 300_000, "key=" * 70_000, "//u:" * 70_000):
        redact(text)


def test_a_logged_traceback_holds_no_credential(caplog):
    try:
        raise ValueError("https://u:p4ss@h/ is no URL")
    except ValueError:
        log_failure(logging.getLogger("x"), "failed")
    assert "Traceback" in caplog.text
    assert "p4ss" not in caplog.text


def test_a_line_of_the_doctor_holds_no_credential():
    assert Finding("x", Status.FAILED, "https://u:p@h is down").text == "https://***@h is down"


def with_secrets(url: str) -> str:
    return url.replace("://", f"://{USER}:{ENCODED}@") + f"?token={TOKEN}"


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    monkeypatch.setattr(logging.getLogger("aiohttp.access"), "disabled", True)  # the log of these tests' own servers
    with stamina.set_testing(True, attempts=2, cap=True):
        yield


def echo(status: int) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Answer with all that was sent, as debugging servers do."""

    async def give(request: web.Request) -> web.StreamResponse:
        said = {"url": str(request.url), "headers": dict(request.headers), "user": USER, "password": PASSWORD}
        return web.json_response({"error": said, "basic": [USER, PASSWORD, TOKEN]}, status=status)

    return give


async def not_json(request: web.Request) -> web.StreamResponse:
    return web.Response(text=f"<p>{request.url} {dict(request.headers)} {PASSWORD} {USER} {TOKEN}")


async def cut_half(request: web.Request) -> web.StreamResponse:
    """Put a secret where a cut at 200 characters would halve it."""
    return web.Response(text=f"{'x' * (195 - len(PASSWORD) // 2)}{PASSWORD}", status=400)


FAULTS = {
    "200": echo(200),
    "400": echo(400),
    "401": echo(401),
    "429": echo(429),
    "500": echo(500),
    "no JSON": not_json,
    "cut": cut_half,
    "never": never,
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name not in ("tavily", "brightdata")], ids=lambda case: case.name
)
async def test_no_failure_of_a_search_engine_shows_a_secret(case: Case, fault, monkeypatch, caplog, tmp_path):
    if case.variable:
        monkeypatch.setenv(case.variable, KEY)
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "cache.sqlite"
    async with serving(FAULTS[fault]) as server:
        options = {"attempt_seconds": 0.2, "total_seconds": 1.0, "attempts": 2, "cache": str(path)}
        tool = open_search(case.name, base_url=with_secrets(server.url), **options)
        result = await tool.run("paris")
        assert server.requests[0]["params"].get("token") == TOKEN
    assert result.status is not ToolStatus.OK
    assert is_clean(result.text, caplog.text, tool.backend.parameters, repr(tool.backend._engine))
    assert is_clean(path.read_bytes().decode("latin-1"))


@pytest.mark.parametrize("name", ["searxng", "retrieval_server"])
async def test_no_answer_of_a_search_engine_brings_a_secret_into_text_or_cache(name, tmp_path, caplog):
    async def give(request: web.Request) -> web.StreamResponse:
        url = with_secrets(f"http://{request.host}/doc")
        found = {"url": url, "title": f"of {PASSWORD}", "content": f"sent {TOKEN}"}
        document = {"contents": f'"of {PASSWORD}"\nsent {TOKEN}', "url": url}
        return web.json_response({"results": [found], "result": [[{"document": document}]]})

    path = tmp_path / "cache.sqlite"
    async with serving(give) as server:
        tool = open_search(name, base_url=with_secrets(server.url), cache=str(path), show_urls=True)
        results = [await tool.run("paris"), await tool.run("paris")]
        assert len(server.requests) == 1
    assert results[0].status is ToolStatus.OK
    assert is_clean(*[result.text for result in results], caplog.text)
    dump = list(SearchCache(path).entries())
    assert len(dump) == 1
    assert is_clean(repr(dump), *[file.read_bytes().decode("latin-1") for file in tmp_path.iterdir()])


async def test_a_dead_server_and_an_impossible_port_show_no_secret(caplog):
    async with serving(never) as server:
        dead = with_secrets(server.url)
    tool = open_search("searxng", base_url=dead, cache=None, total_seconds=1.0, attempts=2)
    result = await tool.run("paris")
    remote = await RemotePython(dead, attempts=1).run("1")
    assert result.status is remote.status is ToolStatus.INFRASTRUCTURE_ERROR
    assert is_clean(result.text, remote.text, caplog.text)
    for make in (lambda url: open_search("searxng", base_url=url, cache=None), RemotePython):
        for url in (f"http://{USER}:{ENCODED}@h:99999", f"ftp://{USER}:{ENCODED}@h", f"{USER}:{ENCODED}@h"):
            with pytest.raises(ValueError, match="base_url") as raised:
                make(url)
            assert PASSWORD not in str(raised.value)
            assert ENCODED not in str(raised.value)


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "401"])
async def test_no_failure_of_remote_python_shows_a_secret(fault, caplog):
    caplog.set_level(logging.DEBUG)
    async with serving(FAULTS[fault]) as server:
        python = RemotePython(with_secrets(server.url), timeout_seconds=0.1, answer_seconds=0.3, attempts=2)
        result = await python.run("1")
    assert result.status is ToolStatus.INFRASTRUCTURE_ERROR
    assert is_clean(result.text, caplog.text, repr(python))


@pytest.mark.parametrize(
    "said",
    [
        {"status": "SandboxError", "message": f"postgres://{USER}:{ENCODED}@db refused {PASSWORD}"},
        {"status": "Failed", "message": json.dumps({"password": PASSWORD}), "run_result": {"status": "Error"}},
        {"status": "Success", "run_result": {"status": "Finished", "return_code": 0, "stdout": f"{PASSWORD} \ud83d"}},
        {"status": "Failed", "run_result": {"status": "Finished", "return_code": 1, "stderr": f"{TOKEN} \ud83d"}},
    ],
)
async def test_nothing_that_remote_python_answers_brings_a_secret_or_a_surrogate(said):
    async with serving(answer(said)) as server:
        result = await RemotePython(with_secrets(server.url), attempts=1).run("1")
    assert is_clean(result.text)
    result.text.encode()


@pytest.mark.parametrize("fault", FAULTS)
async def test_no_failure_of_a_chat_server_shows_a_secret(fault, caplog):
    caplog.set_level(logging.DEBUG)
    async with serving(FAULTS[fault]) as server:
        chat = ChatServer(with_secrets(server.url), "m")
        client = ChatClient("judge", chat, RetryPolicy(0.2, 1.0, 2), frozenset({400}))
        with pytest.raises(ServiceError) as raised:
            await client.ask("x")
        assert server.requests[0]["path"] == "/v1/chat/completions"
    assert is_clean(str(raised.value), caplog.text, repr(chat))


async def test_a_chat_servers_key_is_shown_by_no_failure_and_excludes_a_user_name(monkeypatch, caplog):
    monkeypatch.setenv("SUMMARY_KEY", KEY)
    async with serving(echo(400)) as server:
        client = ChatClient("judge", ChatServer(server.url, "m", "SUMMARY_KEY"), RetryPolicy(1.0, 2.0, 1))
        with pytest.raises(ServiceError) as raised:
            await client.ask("x")
        assert server.requests[0]["headers"]["Authorization"] == f"Bearer {KEY}"
    assert is_clean(str(raised.value), caplog.text)
    with pytest.raises(ValueError, match="beside the key") as refused:
        ChatClient("judge", ChatServer(with_secrets("http://h"), "m", "SUMMARY_KEY"), RetryPolicy())
    assert is_clean(str(refused.value))


def said(text: str) -> dict[str, Any]:
    return {"choices": [{"message": {"content": text}}]}


async def test_the_page_browser_shows_no_secret_of_its_summarizer_or_of_a_page_with_a_user_name(caplog):
    pytest.importorskip("resiliparse", reason="the extra `web` is not installed")
    async with serving(page("<p>words")) as web_server:
        async with serving(answer(said(f"{PASSWORD} \ud83d"))) as model:
            summarizer = {"base_url": with_secrets(model.url), "model": "m"}
            browser = PageBrowser(allowed_networks=["127.0.0.1/32"], summarizer=summarizer)
            first = await browser.run(web_server.url)
        second = await browser.run(web_server.url)
        third = await browser.run(with_secrets(web_server.url))
        fourth = await browser.run(f"http://{USER}:{ENCODED}@h:99999/")
    assert first.status is ToolStatus.OK
    assert second.status is ToolStatus.INFRASTRUCTURE_ERROR
    assert third.status is fourth.status is ToolStatus.MODEL_ERROR
    assert is_clean(first.text, second.text, third.text, fourth.text, caplog.text)
    first.text.encode()


async def test_what_a_backend_raises_is_logged_without_credentials(caplog, monkeypatch):
    tool = open_search("searxng", base_url="http://h", cache=None)

    async def fail(query: str, top_k: int) -> list[Any]:
        raise RuntimeError(f"https://{USER}:{ENCODED}@h")

    monkeypatch.setattr(tool.backend, "search", fail)
    assert await tool.run("x") == ToolResult("Error: the search failed: RuntimeError", ToolStatus.INFRASTRUCTURE_ERROR)
    assert is_clean(caplog.text)


def test_two_passwords_of_one_server_share_their_cached_answers():
    urls = [f"https://u:{password}@h/s" for password in ("one1one", "two2two")]
    parameters = [open_search("searxng", base_url=url, cache=None).backend.parameters for url in urls]
    assert key(**parameters[0]) == key(**parameters[1])


async def test_a_found_address_stays_one_that_can_be_opened():
    url = "https://p.org/a?key=abc&token=x#y"
    async with serving(answer({"results": [{"url": url, "title": "T", "content": "c"}]})) as server:
        tool = open_search("searxng", base_url=with_secrets(server.url), cache=None, show_urls=True)
        assert (await tool.run("x")).text == f"Page 1: T ({url})\nc"
