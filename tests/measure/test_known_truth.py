"""The 95 % intervals hold the enumerated truth of worlds of binary decisions."""

import random

import numpy as np
import pytest
from decision_trees import EARLY, LENGTHS, World, calls_from, grow, tokens_from

from arpo_verl.diagnostics import GrownTrees
from arpo_verl.measure.bootstrap import Interval
from arpo_verl.measure.law import (
    GROUP,
    SHRUNK,
    SIBLINGS,
    Split,
    optimal_leaves,
    optimal_leaves_of_rewards,
    relative_cost,
)
from arpo_verl.measure.measurement import Measurement, measured
from arpo_verl.measure.sums import prompt_sums

WORLDS = {
    "the prefix decides": World(lambda a, b, c: 0.95 if a else 0.05),
    "the suffix decides": World(lambda a, b, c: 0.95 if b else 0.05),
    "the last turn decides": World(lambda a, b, c: 0.95 if c else 0.05),
    "prefix and suffix have to fit": World(lambda a, b, c: 0.95 if a != b else 0.05),
    "both, and noise": World(lambda a, b, c: 0.25 + 0.3 * a + 0.2 * b),
    "noise alone": World(lambda a, b, c: 0.5),
    "entropy marks where it matters": World(lambda a, b, c: 0.5 if a else 0.1, lambda a: float(a)),
    "entropy marks where it does not": World(lambda a, b, c: 0.5 if a else 0.1, lambda a: -float(a)),
}
PROMPTS, SEEDS, FEWEST = 64, 100, 90


def measure_seed(world: World, seed: int, prompts: int = PROMPTS) -> Measurement:
    draw = random.Random(seed)
    records, rewards, numbers = [], [], []
    for number in range(prompts):
        leaves, earned = grow(world, draw)
        records += leaves
        rewards += earned
        numbers += [number] * len(leaves)
    return measured(prompt_sums(GrownTrees.of(records, numbers, rewards)), seed=seed)


def truth(world: World, most: int) -> dict[str, float]:
    """Return the true value of each quantity; `most` bounds K*."""
    total = world.total()
    found = {"T": total, "late": world.late_lift(), "entropy": world.entropy_lift(), "silent": silent()}
    for depth in (1, 2):
        within = world.within(depth)
        after, before = tokens_from(depth), tokens_from(0) - tokens_from(depth)
        found |= {
            f"reach {depth}": 1 - EARLY,
            f"W {depth}": within,
            f"V1 {depth}": total - within,
            f"rho {depth}": 1 - within / total,
            f"tokens {depth}": before / after,
        }
        split = Split(*(np.array([one]) for one in (total - within, within, before, after, before, after)))
        found[f"K* {depth}"] = float(optimal_leaves(split, most)[0])
        found[f"K* of rewards {depth}"] = float(optimal_leaves_of_rewards(split, most)[0])
        for baseline in (GROUP, SIBLINGS, SHRUNK):
            for leaves in (2, 4):
                found[f"cost {depth} {leaves} {baseline}"] = float(relative_cost(split, leaves, baseline)[0])
    found["calls 1"] = (calls_from(0) - calls_from(1)) / calls_from(1)
    return found


def silent() -> float:
    """Return the share of tokens whose turn has no sibling: those after a coin that said no."""
    first, second, third = (length + 0.5 for length in LENGTHS)
    paths = 1.5  # that leave a result
    sampled = EARLY * 5 + (1 - EARLY) * (first + paths * second + paths**2 * third)
    return (1 - EARLY) * (0.5 * second + paths * 0.5 * third) / sampled


def intervals(measurement: Measurement) -> dict[str, Interval | None]:
    found = {
        "T": measurement.reward_variance,
        "late": measurement.lift_of_late,
        "entropy": measurement.lift_of_entropy,
        "silent": measurement.silent,
    }
    for one in measurement.depths:
        at = one.depth
        found |= {f"reach {at}": one.reach, f"W {at}": one.within, f"V1 {at}": one.between}
        found |= {f"rho {at}": one.correlation, f"tokens {at}": one.cost_ratio["tokens"]}
        found |= {f"K* {at}": one.optimal_leaves, f"K* of rewards {at}": one.optimal_leaves_of_rewards}
        if at == 1:
            found["calls 1"] = one.cost_ratio["calls"]
    for design in measurement.designs:
        found[f"cost {design.depth} {design.leaves} {design.baseline}"] = design.costs["tokens"]
    return found


def misses(world: World, seeds: int) -> tuple[dict[str, int], dict[str, list[float]]]:
    """Return in how many seeds each interval does not hold the truth, and all values."""
    missed: dict[str, int] = {}
    values: dict[str, list[float]] = {}
    for seed in range(seeds):
        measurement = measure_seed(world, seed)
        found = intervals(measurement)
        for name, true in truth(world, measurement.leaves).items():
            interval = found[name]
            held = interval is not None and interval.low - 1e-9 <= true <= interval.high + 1e-9
            missed[name] = missed.get(name, 0) + (not held)
            if interval is not None:
                values.setdefault(name, []).append(interval.value)
    return missed, values


@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
def test_the_intervals_hold_the_truth_in_90_of_100_seeds_at_least(name):
    missed, _ = misses(WORLDS[name], SEEDS)
    assert len(missed) > 25
    assert {quantity: count for quantity, count in missed.items() if count > SEEDS - FEWEST} == {}
