"""Addresses as models write them: which page is meant, and what is asked about it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import body_of, browser, read
from tool_servers import answer, page, serving

from arpo_tools import ToolStatus
from arpo_tools.pages.address import parse_page_query

URL = "https://x.org/a"


@pytest.mark.parametrize(
    "text",
    [
        URL,
        f"`{URL}`",
        f"```\n{URL}\n```",
        f"<{URL}>",
        f'"{URL}"',
        f"'{URL}'",
        f"“{URL}”",
        f"({URL})",
        f"**{URL}**",
        f"[t]({URL})",
        f'[t]({URL} "title")',
        f"[t](<{URL}>)",
        f"![picture]({URL})",
        f"[{URL}]({URL})",
        f"- {URL}",
        f"1. {URL}",
        f"[1]: {URL}",
        f"{URL}.",
        f"{URL},",
        f"{URL}?!",
        f"{URL}…",
        f"{URL}。",
        f"URL: {URL}",
        f"URL:{URL}",
        f"url = {URL}",
        f"Link - {URL}",
        f"Please open {URL}",
        f"browse({URL})",
        f"<url>{URL}</url>",
        f"<a href='{URL}'>{URL}</a>",
        f'{{"url": "{URL}"}}',
        f"{{'url': '{URL}'}}",
        f"{{url: {URL}}}",
        "https:/x.org/a",
        "https:x.org/a",
        f" \n\t{URL}\r\n",
    ],
)
def test_an_address_is_found_in_what_is_around_it(text):
    found = parse_page_query(text)
    assert found.addresses[0] == URL
    assert found.question == ""


@pytest.mark.parametrize(
    "text",
    [
        f"{URL} Who is it?",
        f"{URL}\nWho is it?",
        f"{URL}\r\n\r\nWho is it?",
        f"`{URL}` Who is it?",
        f"[t]({URL}) Who is it?",
        f"URL: {URL}\nQuestion: Who is it?",
        f"Who is it? {URL}",
        f'{{"url": "{URL}", "question": "Who is it?"}}',
        f"<a href={URL}>t</a> Who is it?",
    ],
)
def test_the_rest_is_the_question(text):
    assert (parse_page_query(text).addresses[0], parse_page_query(text).question) == (URL, "Who is it?")


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("www.example.com", ("https://www.example.com", "http://www.example.com")),
        ("www.example.com/a.", ("https://www.example.com/a", "http://www.example.com/a")),
        ("URL: `www.example.com`", ("https://www.example.com", "http://www.example.com")),
        ("example.com/path?q=1", ("https://example.com/path?q=1", "http://example.com/path?q=1")),
        ("//example.com/a", ("https://example.com/a", "http://example.com/a")),
        ("münchen.de", ("https://münchen.de", "http://münchen.de")),
        ("localhost:8080/x", ("https://localhost:8080/x", "http://localhost:8080/x")),
        (f"{URL}.", (URL, f"{URL}.")),
        ("https://x.org/wiki/Washington,_D.C.", ("https://x.org/wiki/Washington,_D.C.", "https://x.org/wiki/Washington,_D.C")),
        ("https://x.org/Paris_(Texas)", ("https://x.org/Paris_(Texas)",)),
        ("[t](https://x.org/Paris_(Texas))", ("https://x.org/Paris_(Texas)",)),
        ("(https://x.org/Paris_(Texas))", ("https://x.org/Paris_(Texas)",)),
        ("https://x.org/a?b=1&amp;c=2", ("https://x.org/a?b=1&c=2",)),
        ("https://x.org/a\\_b", ("https://x.org/a_b",)),
        ("https://a.org/2020/https://b.org/c", ("https://a.org/2020/https://b.org/c",)),
        ("HTTP://X.org", ("HTTP://X.org",)),
    ],
)  # fmt: skip
def test_an_address_may_stand_for_several(text, addresses):
    assert parse_page_query(text).addresses == addresses


@pytest.mark.parametrize(
    "text",
    ["file:///etc/passwd", "ftp://8.8.8.8/", "gopher://8.8.8.8/ http://x.org",
     "javascript:alert(1)", "data:text/html,x",
     "//x/", "what is this", "bob@example.com", "Hello. World", "", "{}", "[" * 3000, "{" * 3000],
)  # fmt: skip
async def test_what_is_no_address_is_refused_and_never_made_one(text):
    assert not any(address.startswith(("http:", "https:")) for address in parse_page_query(text).addresses)
    assert (await browser().run(text)).status is ToolStatus.MODEL_ERROR


@given(st.text(st.characters() | st.sampled_from("[]()<>`\"'{}.:/ \nhttps://www.x.org")))
def test_any_text_is_taken_apart(text):
    found = parse_page_query(text)
    assert found.addresses
    assert all(isinstance(address, str) for address in found.addresses)


@pytest.mark.parametrize(
    "frame", ["`{}`", "<{}>", '"{}"', "[t]({})", "{}.", "URL: {}", "{}\nWhat is it?", "see {}, please"]
)
async def test_a_framed_address_is_fetched_as_it_was_meant(frame):
    async with serving(page("<p>found")) as server:
        result = await browser().run(frame.format(f"{server.url}/a_b"))
        assert [request["path"] for request in server.requests] == ["/a_b"]
    assert body_of(result) == "found"


async def test_an_address_without_a_scheme_is_fetched_by_https_and_else_by_http():
    async with serving(page("<p>found")) as server:
        result = await browser().run(server.url.removeprefix("http://") + "/x")
    assert body_of(result) == "found"


async def test_a_full_stop_that_belongs_to_the_address_is_tried_when_nothing_is_there_without():
    async with serving(answer("no", 404), page("<p>found")) as server:
        result = await browser().run(f"{server.url}/Apple_Inc.")
        assert [request["path"] for request in server.requests] == ["/Apple_Inc", "/Apple_Inc."]
    assert body_of(result) == "found"


async def test_another_failure_than_a_missing_page_is_not_tried_again():
    async with serving(answer("no", 500)) as server:
        assert (await browser().run(f"{server.url}/a.")).status is ToolStatus.MODEL_ERROR
        assert len(server.requests) == 1


async def test_an_ordinary_address_is_asked_once():
    assert (await read(answer("no", 404))).text == "Error: the page's server answered HTTP 404"
