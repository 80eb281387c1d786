"""The state of tools forks with the leaf: copied by `fork()` or deep, or nothing branches; never shared, ended once."""

import asyncio
import contextlib
import copy
import logging
import sqlite3
import threading
import time
from dataclasses import replace
from typing import ClassVar

import pytest
from branching_worlds import ALWAYS, SqliteGame, Wanderer, grow, paths_of, schema
from hypothesis import given, settings
from hypothesis import strategies as st
from verl.tools.base_tool import BaseTool
from verl.tools.schemas import ToolResponse

from arpo_verl.integration.rollout import kept_instances, leaf_states
from arpo_verl.integration.rollout.tools import ToolSettings, VerlTools
from arpo_verl.rollout.leaf_record import LeafRecord
from arpo_verl.rollout.metrics import tree_metrics
from arpo_verl.rollout.protocols import ToolCall
from arpo_verl.rollout.tree import TOOL_CANNOT_FORK

STEPS = [f"<step>{step}</step>" for step in ("north", "south", "east", "west")]
ITEMS = [f"<basket>{item}</basket>" for item in ("pear", "fig", "tea", "nut")]


class Basket(BaseTool):
    """A shopping basket in `agent_data.extra_fields`; `make` makes what it is kept in, `put` puts an item there."""

    def __init__(self, make=list, put=lambda kept, item: [*kept, item][-99:]) -> None:
        self.config, self.tool_schema, self.name = {}, schema("basket"), "basket"
        self.make, self.put = make, put

    async def execute(self, instance_id, parameters, agent_data=None, **kwargs):
        kept = agent_data.extra_fields.get("basket")
        kept = self.make() if kept is None else kept
        items = self.put(kept, parameters["text"])
        agent_data.extra_fields["basket"] = items if isinstance(kept, list) else kept
        return ToolResponse(text=" ".join(items)), 0.0, {}


class Shelf:
    """A database in memory, which can't be copied deep, with a `fork()` of its own."""

    living: ClassVar[list["Shelf"]] = []
    closed: ClassVar[list["Shelf"]] = []

    def __init__(self) -> None:
        self.base = sqlite3.connect(":memory:", check_same_thread=False)
        self.base.execute("CREATE TABLE IF NOT EXISTS items (item TEXT)")
        Shelf.living.append(self)

    def put(self, item: str) -> list[str]:
        self.base.execute("INSERT INTO items VALUES (?)", [item])
        return [one for (one,) in self.base.execute("SELECT item FROM items ORDER BY rowid")]

    def fork(self) -> "Shelf":
        other = Shelf()
        self.base.commit()
        self.base.backup(other.base)
        return other

    def close(self) -> None:
        Shelf.closed.append(self)
        self.base.close()


@pytest.fixture(autouse=True)
def fresh():
    Shelf.living, Shelf.closed = [], []
    leaf_states._logged.clear()


@pytest.fixture
def game(tmp_path) -> SqliteGame:
    return SqliteGame(tmp_path)


def assert_each_has_its_own(grown) -> None:
    """Each result lists the calls of its own path up to it, and nobody else's."""
    for number, path in enumerate(paths_of(grown)):
        assert grown.results(number) == [" ".join(path[: length + 1]) for length in range(len(path))]


@pytest.mark.parametrize("schedule", ["async", "lockstep"])
async def test_branches_of_a_game_in_a_database_do_not_see_each_others_writes(game, schedule):
    grown = await grow([game], Wanderer(STEPS, seed=2), 6, config=replace(ALWAYS, schedule=schedule))
    assert len(grown.leaves) == 6
    assert sum(leaf.parent is not None for leaf in grown.leaves) >= 4
    assert len({tuple(path) for path in paths_of(grown)}) > 3
    assert_each_has_its_own(grown)
    assert game.events["create"] == sum(leaf.parent is None for leaf in grown.leaves)
    # Copies for places that another leaf has taken meanwhile are made in vain, which lockstep does not know.
    surplus = game.events["fork"] - sum(leaf.parent is not None for leaf in grown.leaves)
    assert surplus == 0 if schedule == "lockstep" else surplus >= 0
    assert game.is_released_once()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    leaves=st.integers(1, 9),
    turns=st.integers(0, 4),
    forks=st.floats(0.2, 1.0),
    rule=st.sampled_from(["online", "rounds"]),
)
def test_in_any_tree_every_leaf_has_the_states_of_its_own_path(tmp_path_factory, seed, leaves, turns, forks, rule):
    game, basket = SqliteGame(tmp_path_factory.mktemp("game")), Basket(Shelf, lambda shelf, item: shelf.put(item))
    Shelf.living, Shelf.closed = [], []
    parts = {"rule": "top_k", "rule_kwargs": {"forks": 2, "score": "position"}} if rule == "rounds" else {}
    config = replace(ALWAYS, base_probability=forks, branch_threshold=1 - forks, seed=seed, **parts)
    grown = asyncio.run(grow([game, basket], Wanderer(STEPS + ITEMS, turns, seed), leaves, config=config))
    assert len(grown.leaves) == leaves
    for leaf in grown.leaves:
        for name in ("step", "basket"):
            calls = [call for call in leaf.calls if call.name == name]
            asked = [str(call.arguments) for call in calls]
            assert [call.result for call in calls] == [" ".join(asked[: place + 1]) for place in range(len(asked))]
    assert game.is_released_once()
    assert sorted(map(id, Shelf.closed)) == sorted(map(id, Shelf.living))


async def test_a_basket_of_plain_values_is_copied_deep():
    grown = await grow([Basket()], Wanderer(ITEMS, seed=1), 5)
    assert sum(leaf.parent is not None for leaf in grown.leaves) == 4
    assert_each_has_its_own(grown)


async def test_a_basket_that_changes_in_place_is_copied_deep_too():
    def put(kept: dict, item: str) -> list[str]:
        kept.setdefault("items", []).append(item)
        return list(kept["items"])

    grown = await grow([Basket(dict, put)], Wanderer(ITEMS, seed=1), 5)
    assert sum(leaf.parent is not None for leaf in grown.leaves) == 4
    assert_each_has_its_own(grown)


async def test_a_value_with_a_fork_of_its_own_is_copied_by_it_and_closed_once():
    basket, lockstep = Basket(Shelf, lambda shelf, item: shelf.put(item)), replace(ALWAYS, schedule="lockstep")
    grown = await grow([basket], Wanderer(ITEMS, seed=1), 5, config=lockstep)
    assert sum(leaf.parent is not None for leaf in grown.leaves) == 4
    assert_each_has_its_own(grown)
    assert len(Shelf.living) == 5
    assert sorted(map(id, Shelf.closed)) == sorted(map(id, Shelf.living))


class Bare:
    """Holds what can't be copied, and puts items into a list."""

    def __init__(self, held) -> None:
        self.held, self.items = held, []

    def put(self, item: str) -> list[str]:
        self.items.append(item)
        return self.items


class Itself(Bare):
    def fork(self) -> "Itself":
        return self


class Failing(Bare):
    def fork(self) -> "Failing":
        raise ValueError("no disk is left")


class Endless(Bare):
    def fork(self) -> "Endless":
        time.sleep(1.5)
        return Endless(None)

    def close(self) -> None:
        Shelf.closed.append(self)


def opened_file():
    with open(__file__) as file:
        return file


UNCOPYABLE = {
    "an SQLite connection": (lambda: Bare(sqlite3.connect(":memory:")), "cannot pickle 'sqlite3.Connection'"),
    "a lock": (lambda: Bare(threading.Lock()), "cannot pickle '_thread.lock'"),
    "a file": (lambda: Bare(opened_file()), "cannot pickle"),
    "a generator": (lambda: Bare(number for number in range(3)), "cannot pickle 'generator'"),
    "a fork that returns itself": (lambda: Itself(None), "returned itself from fork"),
    "a fork that raises": (lambda: Failing(None), "no disk is left"),
}


@pytest.mark.parametrize("name", UNCOPYABLE)
async def test_what_cannot_be_copied_stops_branching_there_and_costs_no_leaf(name, caplog):
    make, reason = UNCOPYABLE[name]
    tool = Basket(make, lambda bare, item: bare.put(item))
    with caplog.at_level(logging.WARNING):
        grown = await grow([tool], Wanderer(ITEMS, turns=3, seed=1), 5)
    assert [leaf.parent for leaf in grown.leaves] == [None] * 5
    assert_each_has_its_own(grown)
    # The first leaf tries once, after its first call; then all that are missing start from the prompt.
    assert grown.limits() == {TOOL_CANNOT_FORK: 3, "no_leaf_missing": 12}
    logged_metrics = tree_metrics({"p": [LeafRecord.from_leaf(leaf, 5) for leaf in grown.leaves]})
    assert logged_metrics["arpo/fork_limit/tool_cannot_fork"] == 1
    assert logged_metrics["arpo/fork_refused/tool_cannot_fork"] == 2 / 15
    assert logged_metrics["arpo/fork_refused/no_leaf_missing"] == 12 / 15
    logged = [record.getMessage() for record in caplog.records if "can't be forked" in record.getMessage()]
    assert len(logged) == 1
    assert reason in logged[0]
    assert "nothing branches below that call" in logged[0]


async def test_branching_goes_on_where_no_such_tool_was_called():
    def put(kept: list, item: str) -> list[str]:
        return [*kept, item]

    bound, free = Basket(lambda: Bare(threading.Lock()), lambda bare, item: bare.put(item)), Basket(list, put)
    bound.name, bound.tool_schema = "bound", schema("bound")

    async def in_a_field_of_its_own(*args, agent_data=None, **kwargs):
        agent_data.extra_fields["bound"] = threading.Lock()
        return ToolResponse(text="done"), 0.0, {}

    bound.execute = in_a_field_of_its_own
    calls = [*ITEMS, "<bound>x</bound>"]
    grown = await grow([free, bound], Wanderer(calls, turns=5, seed=4), 9, config=replace(ALWAYS, schedule="lockstep"))
    forked = [leaf for leaf in grown.leaves if leaf.parent is not None]
    assert forked
    assert any(call.name == "bound" for leaf in grown.leaves for call in leaf.calls)
    for leaf in forked:
        before = [call.name for segment in leaf.segments[: -leaf.own_segments] for call in segment.calls]
        assert before
        assert "bound" not in before


class Broken(SqliteGame):
    """A game whose `fork` does what `how` says."""

    def __init__(self, folder, how) -> None:
        super().__init__(folder)
        self.how = how

    def fork(self, instance_id: str):
        return self.how(super(), instance_id)


async def _too_late(game, instance_id: str) -> str:
    await asyncio.sleep(0.6)
    return game.fork(instance_id)


def _raises(game, instance_id: str) -> str:
    raise OSError("no space left on device")


BROKEN_FORKS = {
    "raises": (_raises, "no space left on device"),
    "returns the same instance": (lambda game, instance_id: instance_id, "expected an id that no other instance has"),
    "returns nothing": (lambda game, instance_id: None, "expected an id that no other instance has"),
    "takes too long": (_too_late, "it took too long"),
}


@pytest.mark.parametrize("name", BROKEN_FORKS)
async def test_a_tool_whose_fork_fails_stops_branching_and_is_released_once(name, tmp_path, caplog):
    how, reason = BROKEN_FORKS[name]
    game = Broken(tmp_path, how)
    grown = await grow([game], Wanderer(STEPS, turns=2, seed=1), 3, fork_seconds=0.2)
    assert [leaf.parent for leaf in grown.leaves] == [None] * 3
    assert grown.limits()[TOOL_CANNOT_FORK] == 2
    assert_each_has_its_own(grown)
    assert reason in caplog.text
    if name == "takes too long":
        await asyncio.sleep(0.7)
    assert game.is_released_once()


@pytest.mark.slow
async def test_a_value_that_is_copied_too_late_is_closed_all_the_same():
    tool = Basket(lambda: Endless(None), lambda kept, item: kept.put(item))
    grown = await grow([tool], Wanderer(ITEMS, turns=1, seed=1), 2, fork_seconds=0.1)
    assert [leaf.parent for leaf in grown.leaves] == [None] * 2
    await asyncio.sleep(2.0)
    # The two leaves' own, and at least one copy that nobody waited for.
    assert len(Shelf.closed) >= 3
    assert len({id(one) for one in Shelf.closed}) == len(Shelf.closed)


class ByRequest(BaseTool):
    """Keeps a basket on itself by verl's id of the trajectory, as some tools do."""

    def __init__(self, can_fork: bool | None = None) -> None:
        self.config, self.tool_schema, self.name = {}, schema("basket"), "basket"
        self.baskets: dict[str, list[str]] = {}
        if can_fork is not None:
            self.can_fork = can_fork

    async def execute(self, instance_id, parameters, agent_data=None, **kwargs):
        items = self.baskets.setdefault(agent_data.request_id, [])
        items.append(parameters["text"])
        return ToolResponse(text=" ".join(items)), 0.0, {}


async def test_a_tool_that_keeps_its_state_by_the_request_id_is_never_shared():
    tool = ByRequest()
    grown = await grow([tool], Wanderer(ITEMS, seed=1), 4)
    assert [leaf.parent for leaf in grown.leaves] == [None] * 4
    assert len(tool.baskets) == 4
    assert_each_has_its_own(grown)
    assert grown.limits()[TOOL_CANNOT_FORK] == 3


async def test_a_tool_that_reads_the_id_and_says_that_it_keeps_nothing_branches():
    grown = await grow([ByRequest(can_fork=True)], Wanderer(ITEMS, seed=1), 4)
    assert sum(leaf.parent is not None for leaf in grown.leaves) == 3


async def test_calls_of_one_turn_use_one_instance_in_their_order(game):
    tools, state = VerlTools({"step": game}, ToolSettings([], {}, 200, "left")), {}
    calls = [tools.execute(ToolCall("step", step), state, []) for step in "abcd"]
    answers = await asyncio.gather(*calls)
    assert [answer.text for answer in answers] == ["a", "a b", "a b c", "a b c d"]
    assert game.events["create"] == 1
    await tools.states.close()
    await tools.states.close()
    assert game.is_released_once()


class Dropping(SqliteGame):
    """Fails in the middle of a step to the west: it is written, and not answered."""

    async def execute(self, instance_id, parameters, **kwargs):
        answer = await super().execute(instance_id, parameters, **kwargs)
        if parameters["text"] == "west":
            raise ConnectionError("the game's server is gone")
        return answer


async def test_a_call_that_failed_in_the_middle_is_not_made_again_on_the_same_state(tmp_path):
    game = Dropping(tmp_path)
    tools, state = VerlTools({"step": game}, ToolSettings([], {}, 200, "left")), {}
    said = [await tools.execute(ToolCall("step", step), state, []) for step in ("north", "west", "west", "north")]
    assert [answer.status for answer in said] == ["ok", *["infrastructure_error"] * 3]
    assert "the game's server is gone" in said[1].text
    assert "its state is lost, because a call has failed: ConnectionError" in said[3].text
    assert await tools.states.fork(state) is None
    await tools.states.close()
    assert game.is_released_once()


@pytest.mark.parametrize("schedule", ["async", "lockstep"])
async def test_every_copy_is_released_once_when_the_engine_fails(game, schedule):
    engine = Wanderer(STEPS, turns=4, seed=2)

    async def fail(context: str) -> None:
        if context.count("</result>") == 3:
            raise RuntimeError("the engine is gone")

    engine.before = fail
    with pytest.raises(RuntimeError, match="the engine is gone"):
        await grow([game], engine, 6, config=replace(ALWAYS, schedule=schedule))
    assert game.events["fork"] > 0
    assert game.is_released_once()


async def test_every_copy_is_released_once_when_the_rollout_is_cancelled(game):
    engine = Wanderer(STEPS, turns=4, seed=2)
    reached = asyncio.Event()

    async def stop(context: str) -> None:
        if context.count("</result>") == 3:
            reached.set()
            await asyncio.sleep(60)

    engine.before = stop
    task = asyncio.create_task(grow([game], engine, 6))
    await asyncio.wait_for(reached.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert game.events["fork"] > 0
    assert game.is_released_once()


async def test_an_instance_whose_making_fails_is_made_by_the_next_call(tmp_path):
    class Shy(SqliteGame):
        async def create(self, instance_id=None, **kwargs):
            self.events["asked"] += 1
            if self.events["asked"] == 1:
                await asyncio.sleep(0)
                raise ConnectionError("not yet")
            return await super().create(instance_id, **kwargs)

    game, state = Shy(tmp_path), {}
    tools = VerlTools({"step": game}, ToolSettings([], {}, 200, "left"))
    # The first fails; the others of its turn have waited for it, and use one instance.
    answers = await asyncio.gather(*(tools.execute(ToolCall("step", step), state, []) for step in "abc"))
    assert [answer.status for answer in answers] == ["infrastructure_error", "ok", "ok"]
    assert [answer.text for answer in answers[1:]] == ["b", "b c"]
    assert (await tools.execute(ToolCall("step", "d"), state, [])).text == "b c d"
    await tools.states.close()
    assert game.is_released_once()


class Slow(SqliteGame):
    async def create(self, instance_id=None, **kwargs):
        made = await super().create(instance_id, **kwargs)
        with contextlib.suppress(asyncio.CancelledError):  # and goes on to return what it has made
            await asyncio.sleep(0.5)
        return made


async def test_an_instance_whose_making_outlives_its_call_is_released_too(tmp_path):
    game = Slow(tmp_path)
    grown = await grow([game], Wanderer(STEPS, turns=1, seed=1), 2, config=replace(ALWAYS, max_call_seconds=0.1))
    assert [call.status for leaf in grown.leaves for call in leaf.calls] == ["infrastructure_error"] * 2
    await asyncio.sleep(0.7)
    assert game.is_released_once()


async def test_a_release_that_hangs_or_raises_holds_nobody_up(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(kept_instances, "RELEASE_SECONDS", 0.2)

    class Stuck(SqliteGame):
        async def release(self, instance_id, **kwargs):
            await super().release(instance_id)
            if self.events["fork"] % 2:
                raise OSError("busy")
            await asyncio.sleep(3600)

    start = time.monotonic()
    grown = await grow([Stuck(tmp_path)], Wanderer(STEPS, turns=2, seed=1), 4)
    assert len(grown.leaves) == 4
    assert time.monotonic() - start < 8
    assert "could not release an instance" in caplog.text


def test_a_deep_copy_of_a_state_refers_to_the_forked_values_wherever_they_are_named():
    from arpo_verl.rollout.states import copied

    shelf = Shelf()
    state = {"shelf": shelf, "also": {"the same": [shelf]}, "module": None}
    made: list = []
    new = copied(state, made.append)
    assert new["shelf"] is new["also"]["the same"][0] is made[0]
    assert new["shelf"] is not shelf
    # A module with a function `fork` is no state that forks itself.
    with pytest.raises(TypeError, match="cannot pickle 'module'"):
        copied({"os": __import__("os")})
    assert copy.copy(state)["shelf"] is shelf
