"""The benchmark of the schedule: its clock, its engine, and what it says of the schedules, worked out by hand."""

import asyncio
from dataclasses import replace

import pytest
import rules_in_virtual_time
from released_schedule import Sizes
from schedule_in_virtual_time import FLAT, OPTIONS, OURS, POLICY, RELEASED, SCHEDULES, SPEED, Scenario, simulate
from simulated_engine import EngineSpeed, SimulatedEngine
from simulated_world import LogNormal, Policy, Tool, World
from virtual_clock import run

from arpo_verl.rollout.protocols import GenerationRequest

TOOL = Tool(LogNormal(5, 0), 0.0, 1.0, 1.0, limit_seconds=100.0, result_tokens=LogNormal(4, 0))
POLITE = Policy(3, LogNormal(10, 0), first_call=1.0, further_calls=(0, 0), initial_entropy=1.0, later_entropy=1.0)
"""Turns of 10 tokens; each leaf calls once, for 5 seconds."""
ONE_SECOND = EngineSpeed(step_seconds=1.0, sequence_seconds=0.0, prefill_seconds=0.0, max_sequences=1000)
BY_HAND = Scenario(
    prompts=2,
    speed=ONE_SECOND,
    tools=[TOOL],
    policy=POLITE,
    sizes=Sizes(leaves=4, roots=2, max_response_tokens=100, vocabulary_size=100),
    arpo={"base_probability": 1.0, "entropy_weight": 0.0, "probe_tokens": 2},
)


def test_waiting_takes_virtual_time_alone():
    async def wait() -> str:
        await asyncio.gather(asyncio.sleep(3600), asyncio.sleep(7200))
        return "done"

    assert run(wait()) == ("done", 7200.0)


def test_a_deadlock_is_an_error():
    async def wait_for_nothing() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="deadlock"):
        run(wait_for_nothing())


def ends(speed: EngineSpeed, arrivals: list[tuple[float, int]]) -> list[float]:
    """Send a request for a number of tokens at each arrival; return when each is answered."""
    world = World(replace(POLITE, turn_tokens=LogNormal(100, 0)), [TOOL], "seed")
    engine, prompt = SimulatedEngine(world, speed), world.prompt(0)

    async def ask(arrival: float, tokens: int) -> float:
        await asyncio.sleep(arrival)
        generation = await engine.generate(GenerationRequest(prompt, tokens, "id"))
        assert len(generation.token_ids) == tokens
        return asyncio.get_running_loop().time()

    async def ask_all() -> list[float]:
        return await asyncio.gather(*(ask(*arrival) for arrival in arrivals))

    return run(ask_all())[0]


def test_each_step_takes_longer_with_more_sequences_and_lets_new_ones_in():
    # Batch of 2: a step of 2 s, until 2. Then the third: a step of 2.5 s. Then one alone: two steps of 1.5 s.
    assert ends(EngineSpeed(1.0, 0.5, 0.0, 8), [(0, 2), (0, 4), (1, 1)]) == [4.5, 7.5, 4.5]


def test_who_finds_no_place_waits_for_one():
    assert ends(EngineSpeed(1.0, 0.0, 0.0, 2), [(0, 2), (0, 5), (0, 3)]) == [2.0, 5.0, 5.0]


def test_a_prompt_is_computed_once():
    # Three tokens of prefill take 3 s before the first step; the second request, after it, finds them in the cache.
    assert ends(EngineSpeed(1.0, 0.0, 1.0, 8), [(0, 2), (0.5, 2)]) == [5.0, 6.0]


def test_makespans_worked_out_by_hand_where_every_leaf_calls_once_and_forks():
    # Turn 10, call 5, turn 10. The released code forks after the call; ours after two more tokens.
    released, ours, flat = (simulate(BY_HAND, schedule, seed=0) for schedule in (RELEASED, OURS, FLAT))
    assert (released.makespan, ours.makespan, flat.makespan) == (25.0, 27.0, 25.0)
    assert (released.calls, ours.calls, flat.calls) == (4, 4, 8)
    # Two prompts: per prompt, 2 roots of 20 tokens and 2 forks of 10, against 4 leaves of 20.
    assert (released.generated_tokens, ours.generated_tokens, flat.generated_tokens) == (120, 120, 160)


def test_makespans_worked_out_by_hand_where_no_leaf_calls():
    # Roots 10 s; the two that are missing start one after the other in the released code, together in ours.
    silent = replace(BY_HAND, policy=replace(POLITE, first_call=0.0))
    released, ours, flat = (simulate(silent, schedule, seed=0).makespan for schedule in (RELEASED, OURS, FLAT))
    assert (released, ours, flat) == (30.0, 20.0, 10.0)


def test_the_lower_bound_is_the_longest_leaf_or_the_engines_work():
    # A leaf alone: turn 10, call 5, turn 10.
    assert simulate(BY_HAND, FLAT, seed=0).lower_bound == 25.0
    # Two places and 160 tokens, a second for each pair.
    narrow = replace(BY_HAND, speed=replace(ONE_SECOND, max_sequences=2))
    assert simulate(narrow, FLAT, seed=0).lower_bound == 80.0


def test_a_turn_depends_on_its_place_in_the_tree_alone():
    def visit(orders: list[int]) -> dict[str, tuple[int, bool, float]]:
        world = World(POLICY, [TOOL], "seed")
        prompts = [world.at(world.prompt(number)[-1])[0] for number in range(2)]
        visited = [world.visit_child(prompts[number]) for number in orders]
        return {node.path: (node.tokens, node.calls, node.entropy) for node in visited}

    assert visit([0, 0, 1]) == visit([1, 0, 0])


def test_the_same_seed_gives_the_same_outcome():
    for schedule in SCHEDULES + OPTIONS:
        assert simulate(Scenario(2), schedule, seed=1) == simulate(Scenario(2), schedule, seed=1)
    assert simulate(Scenario(2), OURS, seed=1) != simulate(Scenario(2), OURS, seed=2)


@pytest.mark.parametrize("schedule", SCHEDULES + OPTIONS, ids=lambda schedule: schedule.name)
def test_every_schedule_gives_exactly_m_leaves_a_prompt_and_keeps_to_the_lower_bound(schedule):
    for seed in range(3):
        outcome = simulate(Scenario(3), schedule, seed)
        assert outcome.leaves == [16, 16, 16]
        assert outcome.makespan >= outcome.lower_bound
        assert outcome.mean_batch <= SPEED.max_sequences


def test_our_schedule_is_faster_than_the_released_one_and_calls_fewer_tools_than_flat_grpo():
    released, ours, flat = (
        [simulate(Scenario(8), schedule, seed) for seed in range(3)] for schedule in (RELEASED, OURS, FLAT)
    )
    assert sum(one.makespan for one in ours) * 1.5 < sum(one.makespan for one in released)
    assert sum(one.calls for one in ours) < 0.9 * sum(one.calls for one in flat)


def test_every_rule_of_the_comparison_gives_all_leaves_and_forks_in_rounds_wait_for_all_chains():
    for schedule in rules_in_virtual_time.RULES:
        outcome = simulate(replace(Scenario(2), sizes=replace(Scenario(2).sizes, leaves=6, roots=3)), schedule, 0)
        assert outcome.leaves == [6, 6]
    chains = replace(BY_HAND, arpo={"probe_tokens": 2}, sizes=replace(BY_HAND.sizes, leaves=3, roots=2))
    in_rounds = simulate(chains, rules_in_virtual_time.rule("top_k"), 0)
    # A turn of 10 s, a call of 5 s, an answer of 10 s; then one answer again.
    assert (in_rounds.makespan, in_rounds.forks, in_rounds.cost_ratio) == (35.0, 2, 1.0)
