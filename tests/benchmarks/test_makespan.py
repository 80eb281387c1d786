"""What the benchmark of the makespan says, worked out by hand: replicas, replays, and the last leaf."""

import asyncio
from dataclasses import astuple, replace

import pytest
from makespan_in_virtual_time import RELAXATIONS, causes
from replayed_trees import Relaxation, foresight, last_leaf, replay
from schedule_in_virtual_time import OURS, SPEED, Scenario, roll_out
from simulated_engine import EngineSpeed, Replicas, SimulatedEngine
from simulated_world import World
from test_virtual_time import BY_HAND, ONE_SECOND, POLITE, TOOL
from virtual_clock import run

from arpo_verl.rollout.protocols import GenerationRequest


def test_a_request_id_stays_on_its_replica_and_a_new_one_goes_where_fewest_are():
    world = World(POLITE, [TOOL], "seed")
    engines = [SimulatedEngine(world, ONE_SECOND, number) for number in range(2)]
    replicas, prompt = Replicas(engines, "seed"), world.prompt(0)

    async def ask() -> list[int]:
        requests = [replicas.generate(GenerationRequest(prompt, 10, name)) for name in ("a", "b", "a", "a", "c")]
        await asyncio.gather(*requests)
        return sorted(engine.generated_tokens for engine in engines)

    # Three of "a" on one, "b" and then "c" on the other; 10 tokens each.
    assert run(ask()) == ([20, 30], 10.0)


def test_each_replica_computes_a_prompt_of_its_own():
    world = World(POLITE, [TOOL], "seed")
    engines = [SimulatedEngine(world, EngineSpeed(1.0, 0.0, 1.0, 8), number) for number in range(2)]
    replicas, prompt = Replicas(engines, "seed"), world.prompt(0)

    async def ask() -> list[int]:
        requests = [replicas.generate(GenerationRequest(prompt, 10, str(name))) for name in range(4)]
        await asyncio.gather(*requests)
        return [engine.prefilled_tokens for engine in engines]

    # 3 tokens of the prompt, then 10 of each turn.
    assert run(ask()) == ([3, 3], 13.0)


def test_a_replay_forks_at_once():
    # Turn 10, call 5, turn 10; in the rollout forks start after two more tokens.
    outcome, world = roll_out(BY_HAND, OURS, seed=0)
    assert (outcome.makespan, replay(world, ONE_SECOND, 1, Relaxation())) == (27.0, 25.0)
    assert foresight(world, ONE_SECOND, 1) == 25.0


def test_top_ups_start_at_once_in_a_replay_that_lets_them():
    silent = replace(BY_HAND, policy=replace(POLITE, first_call=0.0))
    outcome, world = roll_out(silent, OURS, seed=0)
    # Roots of 10 s; when they end without a call, two top-ups of 10 s.
    assert outcome.makespan == 20.0
    assert replay(world, ONE_SECOND, 1, Relaxation()) == 20.0
    assert replay(world, ONE_SECOND, 1, Relaxation(starts_at_once=True)) == 10.0
    assert astuple(last_leaf(world, ONE_SECOND)) == (0.0, 10.0, 0.0, 0.0, 10.0, 0.0)


def test_the_longest_chain_goes_first_where_that_is_known():
    _, world = roll_out(BY_HAND, OURS, seed=0)
    roots = [node for node in world.nodes if node.parent is not None and node.parent.parent is None]
    # One place: 12 turns of 10 s. Roots first, then what follows them, and no call of 5 s is waited for.
    narrow = replace(ONE_SECOND, max_sequences=1)
    assert len(roots) == 4
    assert replay(world, narrow, 1, Relaxation(starts_at_once=True, longest_first=True)) == 120.0


def test_the_seconds_of_the_last_leaf_are_those_of_tools_tokens_and_watched_tokens():
    outcome, world = roll_out(BY_HAND, OURS, seed=0)
    # Call 5, two turns of 10, 2 until the fork starts.
    assert astuple(last_leaf(world, ONE_SECOND)) == (5.0, 20.0, 0.0, 0.0, 0.0, 2.0)
    assert outcome.makespan == 27.0


@pytest.mark.parametrize("replicas", [1, 4])
def test_the_last_leafs_seconds_add_up_and_nothing_is_below_the_lower_bound(replicas):
    for seed in range(2):
        scenario = Scenario(8, replicas)
        one = causes(scenario, seed)
        assert sum(astuple(one.last)) == pytest.approx(one.makespan, abs=0.01)  # calls end by the real clock
        assert one.foresight >= one.lower_bound - 0.01
        _, world = roll_out(scenario, OURS, seed)
        assert all(replay(world, SPEED, replicas, relaxation) >= one.lower_bound - 0.01 for relaxation in RELAXATIONS)
