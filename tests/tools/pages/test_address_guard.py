"""Which addresses the page browser connects to, by table, and that what was checked is what is connected to."""

import asyncio
import socket
import threading
import time

import pytest
from tool_servers import page, redirect, serving

from arpo_tools import ToolStatus
from arpo_tools.page_browser import PageBrowser
from arpo_tools.pages.address_guard import AddressGuard, ForbiddenAddressError, NameTimeoutError

pytest.importorskip("resiliparse", reason="the extra `web` is not installed")

PRIVATE = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a00:1::",
    "2002:c0a8:101::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "3fff::",
    "3fff::1",
    "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff",
    "3ffe::1",
    "5f00::1",
    "100:0:0:1::1",
    "200::1",
    "400::1",
    "1000::1",
    "1fff::1",
    "4000::1",
    "8000::1",
    "a000::1",
    "e000::1",
    "2001:2::1",
    "2001:3::1",
    "2001:4:112::1",
    "2001:10::1",
    "2001:20::1",
    "2001:30::1",
    "2001:1ff:ffff::1",
    "2001:db8:ffff::1",
    "2002:6440:1::",
    "2002:a9fe:a9fe::1",
    "2620:4f:8000::1",
    "64:ff9b::a00:1",
    "64:ff9b:1:ffff::1",
    "192.0.0.8",
    "192.0.0.170",
    "192.31.196.1",
    "192.52.193.1",
    "192.88.99.2",
    "192.175.48.1",
    "198.19.255.255",
    "233.252.0.1",
    "ff02::1",
    "",
    "localhost",
    "not an address",
]
PUBLIC = [
    "8.8.8.8",
    "1.1.1.1",
    "93.184.216.34",
    "172.15.0.1",
    "172.32.0.1",
    "100.63.0.1",
    "100.128.0.1",
    "168.63.129.17",
    "192.0.1.1",
    "192.0.3.1",
    "198.17.255.255",
    "198.20.0.1",
    "223.255.255.255",
]
PUBLIC_6 = ["2606:4700:4700::1111", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]
PUBLIC_6 += ["2001:200::1", "2003::1", "2400:cb00::1", "2a00:1450::1", "2c0f:fff0::1", "3fff:1000::1", "2620:0:2d0::1"]


@pytest.mark.parametrize("address", PRIVATE)
def test_private_and_special_addresses_are_refused(address):
    assert not AddressGuard().is_allowed(address)


@pytest.mark.parametrize("address", PUBLIC + PUBLIC_6)
def test_public_addresses_are_allowed(address):
    assert AddressGuard().is_allowed(address)


def test_an_allowed_network_opens_itself_and_nothing_beside_it():
    guard = AddressGuard(["10.1.0.0/16", "fd00::/8"])
    assert guard.is_allowed("10.1.2.3")
    assert guard.is_allowed("::ffff:10.1.2.3")
    assert guard.is_allowed("fd00::1")
    assert not guard.is_allowed("10.2.0.1")


def test_a_public_address_of_this_machine_is_refused(monkeypatch):
    monkeypatch.setattr("arpo_tools.pages.address_guard._can_bind", lambda address: address == "8.8.8.8")
    assert not AddressGuard().is_allowed("8.8.8.8")
    assert AddressGuard().is_allowed("8.8.4.4")


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "017700000001",
        "0177.0.0.1",
        "0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[0:0:0:0:0:0:0:1]",
        "localhost",
        "LOCALHOST.",
        "127.0.0.1.",
        "①②⑦.⓪.⓪.①",
        "127。0。0。1",
        "x@127.0.0.1",
        "127.0.0.1%2f.example.org",
    ],
)
async def test_no_spelling_of_this_machine_reaches_it(host):
    async with serving(page("<p>secret</p>")) as server:
        port = server.url.rsplit(":", 1)[1]
        result = await PageBrowser(fetch_seconds=5).run(f"http://{host}:{port}/")
        assert server.requests == []
    assert result.status is not ToolStatus.OK
    assert "secret" not in result.text


@pytest.mark.parametrize(
    "scheme", ["file:///etc/passwd", "ftp://8.8.8.8/", "gopher://8.8.8.8/", "data:text/html,x", "//x/"]
)
async def test_other_schemes_are_the_models_error(scheme):
    assert (await PageBrowser().run(scheme)).status is ToolStatus.MODEL_ERROR


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_a_private_address_is_not_followed(status):
    async with serving(page("secret"), host="127.0.0.2") as inner:
        async with serving(redirect(f"{inner.url}/admin", status)) as outer:
            result = await PageBrowser(allowed_networks=["127.0.0.1/32"]).run(outer.url)
        assert inner.requests == []
        assert len(outer.requests) == 1
    assert result.status is ToolStatus.MODEL_ERROR
    assert "secret" not in result.text


@pytest.mark.parametrize("target", ["file:///etc/passwd", "javascript:alert(1)", "http://[::1", "", "http://x:99999/"])
async def test_a_redirect_to_no_web_page_is_not_followed(target):
    async with serving(redirect(target)) as server:
        result = await PageBrowser(allowed_networks=["127.0.0.1/32"]).run(server.url)
        assert len(server.requests) == 1
    assert result.status is ToolStatus.MODEL_ERROR


async def test_redirects_end():
    async with serving(redirect("/again")) as server:
        result = await PageBrowser(allowed_networks=["127.0.0.1/32"]).run(server.url)
        assert len(server.requests) == 6
    assert result.status is ToolStatus.MODEL_ERROR


async def test_a_relative_redirect_is_followed():
    async with serving(redirect("../b?c=1#d"), page("<p>found</p>")) as server:
        result = await PageBrowser(allowed_networks=["127.0.0.1/32"]).run(f"{server.url}/a/x")
        assert [request["path"] for request in server.requests] == ["/a/x", "/b"]
    assert result.text.endswith("found")


def found(*addresses: str) -> list[tuple]:
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]


async def test_a_name_that_changes_its_address_after_the_check_gains_nothing(monkeypatch):
    answers = [found("127.0.0.1"), found("127.0.0.2")]
    asked = []

    def lookup(host: str, port: int, **options: object) -> list[tuple]:
        asked.append(host)
        return answers[min(len(asked), 2) - 1]

    monkeypatch.setattr(AddressGuard.__init__, "__defaults__", ((), lookup))
    async with serving(page("<p>public</p>", Connection="close")) as outer:
        port = int(outer.url.rsplit(":", 1)[1])
        inner_requests = []

        async def inner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            inner_requests.append(await reader.read(1))
            writer.close()

        secret = await asyncio.start_server(inner, "127.0.0.2", port)
        browser = PageBrowser(allowed_networks=["127.0.0.1/32"])
        first = await browser.run(f"http://rebind.example:{port}/")
        second = await browser.run(f"http://rebind2.example:{port}/")
        secret.close()
    assert first.text.endswith("public")
    assert asked == ["rebind.example", "rebind2.example"]
    assert second.status is ToolStatus.MODEL_ERROR
    assert inner_requests == []


async def test_a_name_with_a_public_and_a_private_address_is_refused():
    guard = AddressGuard(lookup=lambda *_, **__: found("8.8.8.8", "10.0.0.1"))
    with pytest.raises(ForbiddenAddressError):
        await guard.lookup("both.example", 80)


def test_the_socket_is_the_last_check():
    with pytest.raises(ForbiddenAddressError):
        AddressGuard().open_socket((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80)))


async def test_names_whose_servers_hang_keep_no_other_name_waiting():
    release = threading.Event()

    def lookup(host: str, port: int, **options: object) -> list[tuple]:
        if host != "good.example":
            release.wait(60)
        return found("8.8.8.8")

    guard = AddressGuard(lookup=lookup)
    hanging = [asyncio.create_task(guard.lookup(f"hangs{number}.example", 80)) for number in range(100)]
    await asyncio.sleep(0.05)
    start = time.monotonic()
    [result] = await guard.lookup("good.example", 80)
    assert (result["host"], time.monotonic() - start < 2) == ("8.8.8.8", True)
    for task in hanging:
        task.cancel()
    release.set()


async def test_a_name_whose_servers_hang_is_given_up_and_asked_for_once_at_a_time(monkeypatch):
    monkeypatch.setattr("arpo_tools.pages.address_guard._LOOKUP_SECONDS", 0.1)
    release, asked = threading.Event(), []

    def lookup(host: str, port: int, **options: object) -> list[tuple]:
        asked.append(host)
        release.wait(60)
        return found("8.8.8.8")

    guard = AddressGuard(lookup=lookup)
    outcomes = await asyncio.gather(*(guard.lookup("x.example", 80) for _ in range(5)), return_exceptions=True)
    release.set()
    assert [type(outcome) for outcome in outcomes] == [NameTimeoutError] * 5
    assert asked == ["x.example"]


async def test_more_hanging_lookups_than_there_may_be_are_refused_at_once(monkeypatch):
    monkeypatch.setattr("arpo_tools.pages.address_guard._MOST_LOOKUPS", 2)
    release = threading.Event()
    guard = AddressGuard(lookup=lambda *_, **__: release.wait(60) and found("8.8.8.8"))
    hanging = [asyncio.create_task(guard.lookup(f"{number}.example", 80)) for number in range(2)]
    await asyncio.sleep(0.05)
    with pytest.raises(OSError, match="looked up already"):
        await guard.lookup("third.example", 80)
    release.set()
    assert len(await asyncio.gather(*hanging)) == 2


async def test_a_page_whose_name_hangs_is_a_time_out_of_the_page(monkeypatch):
    monkeypatch.setattr("arpo_tools.pages.address_guard._LOOKUP_SECONDS", 0.1)
    release = threading.Event()
    monkeypatch.setattr(AddressGuard.__init__, "__defaults__", ((), lambda *_, **__: release.wait(60)))
    result = await PageBrowser(fetch_seconds=30).run("http://hangs.example/")
    release.set()
    assert result.status is ToolStatus.TIMEOUT
