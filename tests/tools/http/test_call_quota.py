"""Limits over processes: the spending cap holds to the call, and turns are a second's worth apart."""

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tool_servers import answer, serving

from arpo_tools import ToolStatus
from arpo_tools.http.call_quota import LONGEST_QUEUE_SECONDS, CallQuota, QuotaCounter
from arpo_tools.http.service import ServiceError
from arpo_tools.search import BackendSearch, open_search

FULL = {"organic": [{"title": "Paris", "link": "https://p.org/", "snippet": "The capital of France."}]}


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "counter.sqlite"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("SERPER_API_KEY", "k3y")


def serper(url: str, tmp_path: Path, **options) -> BackendSearch:
    options = {"cache": None, "limits_file": str(tmp_path / "counter.sqlite"), **options}
    return open_search("serper", base_url=url, **options)


async def test_the_cap_is_reached_and_not_passed_and_the_tool_says_so(tmp_path):
    async with serving(answer(FULL)) as server:
        tool = serper(server.url, tmp_path, max_paid_calls=3)
        statuses = [(await tool.run(f"q{number}")).status for number in range(5)]
        result = await tool.run("q9")
    assert statuses == [ToolStatus.OK] * 3 + [ToolStatus.BUDGET] * 2
    assert len(server.requests) == 3
    assert "max_paid_calls" in result.text


async def test_cached_answers_are_given_when_the_calls_are_spent(tmp_path):
    async with serving(answer(FULL)) as server:
        tool = serper(server.url, tmp_path, max_paid_calls=1, cache=str(tmp_path / "cache.sqlite"))
        assert (await tool.run("paris")).status is ToolStatus.OK
        assert (await tool.run("rome")).status is ToolStatus.BUDGET
        assert (await tool.run("Paris")).status is ToolStatus.OK
    assert len(server.requests) == 1


async def test_a_run_that_goes_on_keeps_its_count(tmp_path):
    async with serving(answer(FULL)) as server:
        for _ in range(2):
            await serper(server.url, tmp_path, max_paid_calls=3).run("paris")
        later = serper(server.url, tmp_path, max_paid_calls=3)
        statuses = [(await later.run("paris")).status for _ in range(2)]
    assert statuses == [ToolStatus.OK, ToolStatus.BUDGET]


async def test_a_cap_of_zero_makes_no_call(tmp_path):
    async with serving(answer(FULL)) as server:
        result = await serper(server.url, tmp_path, max_paid_calls=0).run("paris")
    assert (result.status, server.requests) == (ToolStatus.BUDGET, [])


async def test_calls_that_never_reached_the_service_are_not_counted(tmp_path, path):
    async with serving(answer(FULL)) as server:
        dead = server.url
    tool = serper(dead, tmp_path, max_paid_calls=10, attempts=2)
    assert (await tool.run("paris")).status is ToolStatus.INFRASTRUCTURE_ERROR
    counter = QuotaCounter(path, "serper", CallQuota(max_paid_calls=10))
    deadline = time.monotonic() + 10
    while counter.paid_calls() and time.monotonic() < deadline:  # calls are given back without waiting
        await asyncio.sleep(0.01)
    assert counter.paid_calls() == 0


async def test_each_attempt_counts_when_it_may_have_been_billed(tmp_path, path):
    async with serving(answer("oops", 500), answer(FULL)) as server:
        assert (await serper(server.url, tmp_path, max_paid_calls=10).run("paris")).status is ToolStatus.OK
    assert QuotaCounter(path, "serper", CallQuota(max_paid_calls=10)).paid_calls() == 2


async def test_a_refused_call_is_not_counted(tmp_path, path):
    async with serving(answer("no", 401)) as server:
        await serper(server.url, tmp_path, max_paid_calls=10).run("paris")
    counter = QuotaCounter(path, "serper", CallQuota(max_paid_calls=10))
    deadline = time.monotonic() + 10
    while counter.paid_calls() and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    assert counter.paid_calls() == 0


SPEND = """
import asyncio, sys
from arpo_tools.http.call_quota import QuotaCounter, CallQuota
from arpo_tools.http.service import ServiceError
counter = QuotaCounter(sys.argv[1], "serper", CallQuota(max_paid_calls=100))
async def main():
    taken = 0
    while True:
        try:
            await counter.acquire()
        except ServiceError as error:
            print(taken, error.status.value)
            return
        taken += 1
asyncio.run(main())
"""


@pytest.mark.slow
def test_many_processes_together_never_pass_the_cap(path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    spenders = [
        subprocess.Popen([sys.executable, "-c", SPEND, str(path)], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    results = [spender.communicate()[0].split() for spender in spenders]
    assert sum(int(taken) for taken, _ in results) == 100
    assert {status for _, status in results} == {"budget"}


def test_a_damaged_count_ends_the_start_up_and_is_not_begun_anew(tmp_path, path):
    QuotaCounter(path, "serper", CallQuota(max_paid_calls=3))._file.close()
    path.write_bytes(b"damaged " * 1000)
    with pytest.raises(ValueError, match="limits_file"):
        serper("http://127.0.0.1:1", tmp_path, max_paid_calls=3)
    assert path.read_bytes() == b"damaged " * 1000


async def test_a_count_that_cannot_be_written_makes_no_call(tmp_path, path):
    async with serving(answer(FULL)) as server:
        tool = serper(server.url, tmp_path, max_paid_calls=3)
        with sqlite3.connect(path) as connection:
            connection.execute("DROP TABLE accounts")
        result = await tool.run("paris")
    assert (result.status, server.requests) == (ToolStatus.INFRASTRUCTURE_ERROR, [])


async def test_a_count_that_is_removed_during_the_run_is_not_begun_anew(tmp_path, path):
    async with serving(answer(FULL)) as server:
        tool = serper(server.url, tmp_path, max_paid_calls=3)
        await tool.run("paris")
        path.unlink()
        statuses = [(await tool.run("paris")).status for _ in range(2)]
    assert statuses == [ToolStatus.INFRASTRUCTURE_ERROR] * 2
    assert len(server.requests) == 1


def turns(counter: QuotaCounter, number: int, now: float) -> list[float]:
    """The waits of calls that come at one moment."""
    next_call, waits = 0.0, []
    for _ in range(number):
        wait, next_call = counter._turn(next_call, now)
        waits.append(round(wait, 6))
    return waits


def test_a_seconds_worth_of_calls_may_come_at_once_and_the_others_queue(path):
    counter = QuotaCounter(path, "serper", CallQuota(calls_per_second=4))
    assert turns(counter, 7, now=1000.0) == [0.0, 0.0, 0.0, 0.0, 0.25, 0.5, 0.75]


def test_a_rate_below_one_a_second_has_no_burst(path):
    counter = QuotaCounter(path, "serper", CallQuota(calls_per_second=0.5))
    assert turns(counter, 3, now=1000.0) == [0.0, 2.0, 4.0]


def test_a_queue_longer_than_its_limit_is_refused_and_not_joined(path):
    counter = QuotaCounter(path, "serper", CallQuota(calls_per_second=1))
    now = 1000.0
    wait, _ = counter._turn(now + LONGEST_QUEUE_SECONDS, now)
    assert wait == LONGEST_QUEUE_SECONDS
    with pytest.raises(ServiceError) as raised:
        counter._turn(now + LONGEST_QUEUE_SECONDS + 0.5, now)
    assert raised.value.status is ToolStatus.INFRASTRUCTURE_ERROR


def test_a_clock_that_was_set_back_an_hour_stops_nobody(path):
    counter = QuotaCounter(path, "serper", CallQuota(calls_per_second=1))
    _, next_call = counter._turn(0.0, 10_000.0)
    assert counter._turn(next_call, 10_000.0 - 3600) == (0.0, 10_000.0 - 3600 + 1)


def test_a_clock_that_was_set_forward_allows_one_burst(path):
    counter = QuotaCounter(path, "serper", CallQuota(calls_per_second=2))
    assert turns(counter, 3, now=1e9) == [0.0, 0.0, 0.5]


async def test_two_tools_share_one_rate(path):
    tools = [QuotaCounter(path, "serper", CallQuota(calls_per_second=20)) for _ in range(2)]
    start = time.monotonic()
    await asyncio.gather(*(tools[number % 2].acquire() for number in range(30)))
    # 20 at once, the other 10 in steps of 1/20 s
    assert time.monotonic() - start >= 0.45


async def test_two_accounts_do_not_share(path):
    quota = CallQuota(max_paid_calls=1)
    for account in ("serper", "brave"):
        await QuotaCounter(path, account, quota).acquire()
    with pytest.raises(ServiceError):
        await QuotaCounter(path, "brave", quota).acquire()


async def test_a_call_cancelled_in_the_queue_is_given_back(path):
    counter = QuotaCounter(path, "serper", CallQuota(calls_per_second=0.05, max_paid_calls=10))
    await counter.acquire()
    waiting = asyncio.create_task(counter.acquire())
    while counter.paid_calls() < 2:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    deadline = time.monotonic() + 10
    while counter.paid_calls() > 1 and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    assert counter.paid_calls() == 1


@pytest.mark.parametrize(
    "options",
    [
        {"calls_per_second": 0},
        {"calls_per_second": -1},
        {"calls_per_second": float("inf")},
        {"calls_per_second": float("nan")},
        {"max_paid_calls": -1},
    ],
)
def test_limits_that_make_no_sense_are_refused_by_name(options):
    [(name, _)] = options.items()
    with pytest.raises(ValueError, match=name):
        CallQuota(**options)


def test_a_cap_needs_a_file_of_its_own_run():
    with pytest.raises(ValueError, match="limits_file"):
        open_search("serper", cache=None, max_paid_calls=3)


@pytest.mark.parametrize("backend", ["searxng", "retrieval_server"])
def test_a_cap_on_what_is_not_paid_for_is_refused(backend, path):
    with pytest.raises(ValueError, match="not paid for"):
        open_search(backend, base_url="http://x", max_paid_calls=3, limits_file=str(path), cache=None)


async def test_a_copy_of_the_file_alone_keeps_the_count(path, tmp_path):
    counter = QuotaCounter(path, "serper", CallQuota(max_paid_calls=3))
    for _ in range(3):
        await counter.acquire()
    copy = tmp_path / "copy.sqlite"
    copy.write_bytes(path.read_bytes())
    copied = QuotaCounter(copy, "serper", CallQuota(max_paid_calls=3))
    assert copied.paid_calls() == 3
    with pytest.raises(ServiceError):
        await copied.acquire()


async def test_a_file_of_an_earlier_version_keeps_its_count(path):
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA application_id={int.from_bytes(b'ARPL', 'big')}")
        connection.execute(
            "CREATE TABLE accounts (account TEXT PRIMARY KEY, paid_calls INTEGER NOT NULL, next_call REAL NOT NULL)"
        )
        connection.execute("INSERT INTO accounts VALUES ('serper', 2, 0)")
    counter = QuotaCounter(path, "serper", CallQuota(max_paid_calls=3))
    await counter.acquire()
    assert counter.paid_calls() == 3


@pytest.mark.parametrize("step", [2.0, 30.0, 59.0, 3600.0])
async def test_a_clock_that_was_set_back_makes_nobody_wait_for_it(path, monkeypatch, step):
    counter = QuotaCounter(path, "serper", CallQuota(calls_per_second=2))
    now = [1_000_000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    waits = [counter._file.run(counter._count_in_transaction) for _ in range(3)]
    assert waits == [0.0, 0.0, 0.5]
    now[0] -= step
    # What waited before still waits: the fourth and fifth call of a rate of two a second.
    assert [round(counter._file.run(counter._count_in_transaction), 3) for _ in range(2)] == [1.0, 1.5]


async def test_clocks_that_differ_a_little_do_not_raise_the_rate(path, monkeypatch):
    counter = QuotaCounter(path, "serper", CallQuota(calls_per_second=2))
    now = [1_000_000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    waits = []
    for number in range(8):
        now[0] += 0.5 if number % 2 else -0.5
        waits.append(now[0] + counter._file.run(counter._count_in_transaction))
    assert sorted(waits)[-1] - sorted(waits)[0] >= 2.5


async def test_calls_that_come_together_are_counted_to_the_call(path):
    counter = QuotaCounter(path, "serper", CallQuota(max_paid_calls=70))
    outcomes = await asyncio.gather(*(counter.acquire() for _ in range(100)), return_exceptions=True)
    assert [outcome for outcome in outcomes if outcome is None] == [None] * 70
    assert {type(outcome) for outcome in outcomes} == {type(None), ServiceError}
    assert counter.paid_calls() == 70
