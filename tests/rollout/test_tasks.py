"""Tasks that end together, on a virtual clock: what swallows its cancellation, fails meanwhile, is cancelled twice."""

import asyncio
import random

import pytest
import virtual_clock
from fakes import END, Collector, ScriptedEngine, ScriptedTools, continued, ids, syntax
from hypothesis import given, settings
from hypothesis import strategies as st

from arpo_verl.config import ArpoConfig
from arpo_verl.rollout import calls
from arpo_verl.rollout.scheduler import PromptRollout
from arpo_verl.rollout.tasks import CLOSING_SECONDS, LONGEST_PAUSE_SECONDS, ROUND_SECONDS, Tasks
from arpo_verl.rollout.turns import RolloutServices, RolloutSettings
from arpo_verl.rules import build_rule

NEVER = 100
"""So many cancellations are more than a closing gives; a task that took no end of them would not end with its test."""


async def swallow(times: float, then: float = 0.0) -> None:
    """Go on after so many cancellations, and work on a while."""
    while times > 0:
        try:
            await asyncio.sleep(1e6)
        except asyncio.CancelledError:
            times -= 1
    await asyncio.sleep(then)


async def fail(after: float) -> None:
    await asyncio.sleep(after)
    raise ValueError("failed")


def others() -> set[asyncio.Task]:
    return asyncio.all_tasks() - {asyncio.current_task()}


@pytest.mark.parametrize(
    ("times", "then", "seconds"),
    [
        (0, 1e6, 0.0),  # ends at its first cancellation
        (1, 1e6, ROUND_SECONDS),
        (3, 1e6, 3 * ROUND_SECONDS),
        (1, 0.2, 0.2),  # answers its cancellation by coming to its end
        (NEVER, 0.0, CLOSING_SECONDS),
    ],
)
def test_close_takes_as_long_as_the_tasks_and_no_longer_than_its_limit(times, then, seconds, caplog):
    async def run() -> int:
        tasks = Tasks()
        tasks.start(swallow(times, then))
        tasks.start(asyncio.sleep(1e6))
        await asyncio.sleep(0)
        await tasks.close()
        return len(others())

    left, took = virtual_clock.run(run())
    assert took == pytest.approx(seconds)
    assert left == (times == NEVER)
    assert ("did not end within 5 s of its cancellation" in caplog.text) == (times == NEVER)


def test_what_is_left_behind_does_not_go_on_with_its_work_when_it_comes_back():
    worked = []

    async def come_back() -> None:
        await swallow(30)
        await asyncio.sleep(0)
        worked.append("on")

    async def run() -> None:
        tasks = Tasks()
        tasks.start(come_back())
        await asyncio.sleep(0)
        await tasks.close()
        assert len(others()) == 1
        await asyncio.sleep(30 * LONGEST_PAUSE_SECONDS)
        assert not others()

    virtual_clock.run(run())
    assert worked == ["on"] or worked == []


@pytest.mark.parametrize("cancellations", [1, 2, 5])
def test_a_cancellation_of_the_closing_one_is_raised_when_all_have_ended(cancellations):
    async def run() -> None:
        async def close() -> None:
            tasks = Tasks()
            tasks.start(swallow(1, then=1.2))
            tasks.start(swallow(2))
            await asyncio.sleep(0)
            await tasks.close()

        closing = asyncio.create_task(close())
        for _ in range(cancellations):
            await asyncio.sleep(0.1)
            closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert not others()

    virtual_clock.run(run())


def test_a_time_limit_around_a_hanging_close_is_kept_up_to_closes_own():
    async def run() -> None:
        tasks = Tasks()
        tasks.start(swallow(NEVER))
        await asyncio.sleep(0)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(tasks.close(), timeout=1)

    _, took = virtual_clock.run(run())
    assert took == pytest.approx(CLOSING_SECONDS)


def test_the_first_failure_is_raised_and_later_ones_are_no_noise(caplog):
    async def run() -> None:
        tasks = Tasks()
        tasks.start(fail(1))
        tasks.start(fail(1))
        tasks.start(swallow(1))
        try:
            with pytest.raises(ValueError, match="failed"):
                await tasks.join()
        finally:
            await tasks.close()
        assert tasks.start(fail(0)) is None
        assert not others()

    virtual_clock.run(run())
    assert "never retrieved" not in caplog.text


def test_close_without_tasks_and_twice_is_nothing():
    async def run() -> None:
        tasks = Tasks()
        await tasks.close()
        await tasks.close()

    assert virtual_clock.run(run()) == (None, 0.0)


class Fickle:
    """Does something else each time: waits, fails, raises CancelledError, swallows cancellations, or ends late."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.never_ends = False

    async def act(self) -> None:
        kind = self.chance.choice(["wait"] * 12 + ["fail", "cancelled", "swallow", "late", "swallow late", "never"])
        if kind == "fail":
            raise RuntimeError("fickle")
        if kind == "cancelled":
            raise asyncio.CancelledError
        if kind == "never":
            self.never_ends = True
            await swallow(NEVER)
        try:
            await asyncio.sleep(self.chance.choice([0, 0, 0.01, 1, 3]))
        except asyncio.CancelledError:
            if kind in ("late", "swallow late"):
                await asyncio.sleep(self.chance.choice([0.1, 0.4]))
            if kind in ("wait", "late"):
                raise


class FickleEngine(ScriptedEngine):
    fickle: Fickle

    async def generate(self, request):
        await self.fickle.act()
        return await super().generate(request)


class FickleTools(ScriptedTools):
    fickle: Fickle

    async def execute(self, call, state, messages):
        await self.fickle.act()
        return await super().execute(call, state, messages)


class FickleCollector(Collector):
    fickle: Fickle

    async def __call__(self, leaf):
        await self.fickle.act()
        await super().__call__(leaf)


def write(context: str) -> str:
    call = "<python>1+1</python>"
    return continued(context, call, call, f"so 2{END}")


@settings(max_examples=400, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    schedule=st.sampled_from(["async", "lockstep"]),
    cancellations=st.lists(st.sampled_from([0.0, 0.005, 0.5, 1.0, 2.0]), max_size=3),
)
def test_a_prompt_ends_whatever_its_parts_do_and_leaves_only_tasks_that_never_end(seed, schedule, cancellations):
    """Also when the one who waits for it is cancelled, again while it closes, or is impatient."""
    chance = random.Random(seed)
    fickle = Fickle(chance)
    engine, tools, collector = FickleEngine(write), FickleTools(lambda call: "2"), FickleCollector()
    engine.fickle = tools.fickle = collector.fickle = fickle

    async def run() -> str:
        size = RolloutSettings(ids("Q:"), 6, 500, vocabulary_size=100, seed=str(seed))
        config = ArpoConfig(initial_rollouts=2, probe_tokens=3, schedule=schedule, infrastructure_retries=0)
        services = RolloutServices(engine, tools, syntax(), collector)
        rollout = asyncio.create_task(PromptRollout(size, config, build_rule(config), services).run())
        loop = asyncio.get_running_loop()
        last = 0.0
        for pause in cancellations:
            await asyncio.sleep(pause)
            rollout.cancel()
            last = loop.time()
        # An engine without an answer is not the rollout's to end: verl waits for it. Whoever cancels waits no longer.
        done, _ = await asyncio.wait({rollout}, timeout=100)
        if not done:
            assert fickle.never_ends and not cancellations
            rollout.cancel()
            last = loop.time()
            await asyncio.wait({rollout})
        if cancellations or not done:
            assert loop.time() - last <= CLOSING_SECONDS + 2 * calls.CANCELLATION_SECONDS + 3 * 3
        left = others() - {rollout}
        if not fickle.never_ends:
            assert not left
        if rollout.cancelled():
            return "cancelled"
        return "failed" if rollout.exception() else "ended"

    end, _ = virtual_clock.run(run())
    if end == "ended":
        assert len(collector.leaves) == 6
