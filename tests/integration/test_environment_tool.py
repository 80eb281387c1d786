"""Environments in the real scheduler: each action is a call, each observation a result, each branch an episode."""

import asyncio
import time
from dataclasses import replace

import pytest
from branching_worlds import ALWAYS, Wanderer, grow, paths_of
from piped_worlds import PipedGame

from arpo_tools.environment import open_world
from arpo_verl.integration.rollout.environment_tool import EnvironmentTool
from arpo_verl.integration.rollout.tools import ToolSettings, VerlTools
from arpo_verl.rollout.protocols import ToolCall
from arpo_verl.rollout.tree import TOOL_CANNOT_FORK

LAKE = {"type": "native", "environment": "gymnasium", "name": "lake", "id": "FrozenLake-v1", "is_slippery": False}
GAME = {"type": "native", "environment": "piped_worlds.PipedGame", "name": "game"}
MOVES = [f"<lake>{action}</lake>" for action in ("left", "down", "right", "up")]


def seen_alone(config: dict, actions: list[str], seed: int | None = None) -> list[str]:
    """Return what the results of these actions say without a rollout."""
    options = {name: value for name, value in config.items() if name not in ("type", "name")}
    episode = open_world(**options).begin(seed)
    results = []
    for action in actions:
        if episode.now.is_over:
            break
        shown = episode.act(action)
        text = shown.text
        if len(episode.actions) == 1:
            text = f"At the start:\n{episode.observations[0].text}\n\nNow:\n{text}"
        if shown.reward:
            text += f"\nReward: {shown.reward:g}"
        if shown.is_over:
            text += f"\nThe episode is over. Total reward: {episode.total_reward:g}"
        results.append(text)
    episode.close()
    return results


@pytest.mark.parametrize("schedule", ["async", "lockstep"])
@pytest.mark.parametrize("is_slippery", [False, True])
async def test_a_lake_branches_at_each_observation_and_each_leaf_crosses_its_own(schedule, is_slippery):
    config = {**LAKE, "is_slippery": is_slippery}
    tool = EnvironmentTool(config)
    grown = await grow([tool], Wanderer(MOVES, turns=5, seed=3), 8, config=replace(ALWAYS, schedule=schedule))
    assert sum(leaf.parent is not None for leaf in grown.leaves) >= 5
    for number, path in enumerate(paths_of(grown)):
        alone = seen_alone(config, path)
        assert grown.results(number)[: len(alone)] == alone
        assert all("the episode is over" in result for result in grown.results(number)[len(alone) :])
    assert tool._episodes == {}


async def test_a_taxi_branches_too():
    config = {"type": "native", "environment": "gymnasium", "name": "taxi", "id": "Taxi-v4", "seed": 5}
    actions = [f"<taxi>{action}</taxi>" for action in ("north", "east", "pickup", "2")]
    tool = EnvironmentTool(config)
    grown = await grow([tool], Wanderer(actions, turns=4, seed=1), 6)
    assert sum(leaf.parent is not None for leaf in grown.leaves) >= 3
    for number, path in enumerate(paths_of(grown)):
        assert grown.results(number) == seen_alone(config, path)
    assert [call.reward for call in grown.leaves[0].calls] == [
        float(result.partition("Reward: ")[2].partition("\n")[0]) for result in grown.results(0)
    ]


async def test_a_game_in_a_process_branches_by_replay_and_leaves_none_behind():
    tool = EnvironmentTool(GAME)
    made: list[PipedGame] = []
    kind = tool._world.kind

    def noted(**options) -> PipedGame:
        made.append(kind(**options))
        return made[-1]

    object.__setattr__(tool._world, "kind", noted)
    moves = ["<game>back</game>", "<game>forth</game>"]
    lockstep = replace(ALWAYS, schedule="lockstep")
    grown = await grow([tool], Wanderer(moves, turns=2, seed=4), 4, config=lockstep)
    assert sum(leaf.parent is not None for leaf in grown.leaves) == 3
    for number, path in enumerate(paths_of(grown)):
        assert grown.results(number) == seen_alone(GAME, path)
    assert len(made) == 4
    assert [one.process.returncode for one in made] == [0] * 4


@pytest.mark.parametrize("kind", ["Unseeded", "Drifting"])
async def test_a_game_whose_replay_shows_something_else_does_not_branch(kind):
    tool = EnvironmentTool({**GAME, "environment": f"piped_worlds.{kind}"})
    grown = await grow([tool], Wanderer(["<game>back</game>", "<game>forth</game>"], turns=2, seed=4), 3)
    assert [leaf.parent for leaf in grown.leaves] == [None] * 3
    assert grown.limits()[TOOL_CANNOT_FORK] == 2


def tools_of(config: dict, create_kwargs: dict | None = None) -> tuple[VerlTools, EnvironmentTool]:
    tool = EnvironmentTool(config)
    kwargs = {tool.name: {"create_kwargs": create_kwargs or {}}}
    return VerlTools({tool.name: tool}, ToolSettings([], kwargs, 2000, "left")), tool


async def test_a_rows_seed_and_options_begin_its_own_episodes():
    tools, tool = tools_of(LAKE, {"seed": 3, "desc": ["SG", "FF"]})
    answer = await tools.execute(ToolCall("lake", {"action": "right"}), {}, [])
    assert answer.text == "At the start:\n[S]G\nFF\n\nNow:\nS[G]\nFF\nReward: 1\nThe episode is over. Total reward: 1"
    assert answer.reward == 1
    await tools.states.close()
    assert tool._episodes == {}


async def test_looking_shows_the_present_and_steps_nowhere():
    tools, _ = tools_of(LAKE)
    state: dict = {}
    asked = ["look", "right", "Look", "jump"]
    answers = [await tools.execute(ToolCall("lake", one), state, []) for one in asked]
    assert answers[0].text == "[S]FFF\nFHFH\nFFFH\nHFFG"
    assert answers[2].text == "S[F]FF\nFHFH\nFFFH\nHFFG"
    assert [answer.status for answer in answers] == ["ok", "ok", "ok", "model_error"]
    assert answers[3].text.endswith("'jump' is no action; expected one of left, down, right, up.")
    # The wrong action has cost nothing: the state is still there.
    assert (await tools.execute(ToolCall("lake", "right"), state, [])).text.startswith("SF[F]F")
    await tools.states.close()


@pytest.mark.parametrize(("action", "reason"), [("raise", "no such room"), ("x", "returned int")])
async def test_what_an_environment_does_wrong_is_a_failure_of_the_tool(action, reason):
    tools, _ = tools_of({**GAME, "environment": "piped_worlds.Wrong"})
    state: dict = {}
    answer = await tools.execute(ToolCall("game", action), state, [])
    assert (answer.status, reason in answer.text) == ("infrastructure_error", True)
    assert await tools.states.fork(state) is None
    await tools.states.close()


async def test_a_step_that_hangs_is_left_behind():
    tool = EnvironmentTool({**GAME, "environment": "piped_worlds.Stuck"})
    start = time.monotonic()
    grown = await grow([tool], Wanderer(["<game>x</game>"], turns=1), 2, config=replace(ALWAYS, max_call_seconds=0.2))
    assert time.monotonic() - start < 1.8
    assert [call.status for leaf in grown.leaves for call in leaf.calls] == ["infrastructure_error"] * 2
    assert tool._episodes == {}


async def test_an_episode_that_begins_when_nobody_waits_any_more_is_closed():
    tool = EnvironmentTool(GAME)
    closed = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Late:
        def reset(self, seed):
            time.sleep(0.3)
            return "start"

        def step(self, action):
            return "x"

        def close(self):
            loop.call_soon_threadsafe(closed.set)

    object.__setattr__(tool._world, "kind", Late)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(tool.create(), 0.05)
    await asyncio.wait_for(closed.wait(), 2)
    assert (tool._episodes, tool._given_up) == ({}, set())


def test_a_native_call_is_told_the_actions():
    function = EnvironmentTool(LAKE).tool_schema.function
    assert (function.name, list(function.parameters.properties)) == ("lake", ["action"])
    assert function.description.endswith("Actions: left, down, right, up.")
    assert EnvironmentTool(GAME).tool_schema.function.description == "Goes back or forth."


def test_a_key_that_the_environment_does_not_know_is_refused():
    with pytest.raises(ValueError, match="unexpected keyword argument 'slipery'"):
        EnvironmentTool({**LAKE, "slipery": True})
