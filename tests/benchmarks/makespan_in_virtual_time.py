"""Which seconds of a batch's rollout are lost to what: `python tests/benchmarks/makespan_in_virtual_time.py`.

The world is that of `schedule_in_virtual_time.py`, on 1 to 256 replicas behind verl's balancer. Two views:

- The trees of the rollout are run once more (`replayed_trees.py`) with one wait after the other gone: forks that wait
  for the watched tokens, top-ups known late, replicas of unequal load, and not knowing which leaf will be long. The
  last is a schedule that a clairvoyant could follow: what lies between it and the lower bound is all that the bound may
  be too low by.
- The leaf that ended last, whose seconds add up to the makespan: in tools; its own tokens on an engine of its own; what
  others in its batches add to those steps; in a queue; before its root or fork was started.
"""

import argparse
import gc
import logging
import statistics
import time
from dataclasses import astuple, dataclass

from replayed_trees import LastLeaf, Relaxation, foresight, last_leaf, replay
from schedule_in_virtual_time import OURS, Scenario, roll_out

SIZES = ((16, 1, 8), (16, 4, 4), (16, 16, 2), (16, 64, 1), (16, 256, 1), (64, 1, 2))
"""Prompts of a replica, replicas, seeds."""
RELAXATIONS = (
    Relaxation(),
    Relaxation(starts_at_once=True),
    Relaxation(starts_at_once=True, any_replica=True),
)


@dataclass(frozen=True)
class Causes:
    """Virtual seconds of one batch."""

    lower_bound: float
    foresight: float
    any_replica: float
    starts_at_once: float
    forks_at_once: float
    makespan: float
    last: LastLeaf


def causes(scenario: Scenario, seed: int) -> Causes:
    """Roll a batch out with our asynchronous schedule and replay it."""
    outcome, world = roll_out(scenario, OURS, seed)
    last = last_leaf(world, scenario.speed)
    forks, starts, replica = (replay(world, scenario.speed, scenario.replicas, one) for one in RELAXATIONS)
    clairvoyant = foresight(world, scenario.speed, scenario.replicas)
    return Causes(outcome.lower_bound, clairvoyant, replica, starts, forks, outcome.makespan, last)


def row(rows: list[Causes]) -> str:
    """Return the means: seconds of the bound and what each cause adds, as multiples of the bound; the last leaf's."""
    bound, *reached = (statistics.fmean(column) for column in list(zip(*map(_seconds, rows), strict=True)))
    last = [statistics.fmean(part) for part in zip(*(astuple(one.last) for one in rows), strict=True)]
    return (
        f"{bound:7.1f} |"
        + "".join(f"{one / bound:7.2f}" for one in reached)
        + " |"
        + "".join(f"{part:7.1f}" for part in last)
    )


def _seconds(one: Causes) -> tuple[float, ...]:
    return one.lower_bound, one.foresight, one.any_replica, one.starts_at_once, one.forks_at_once, one.makespan


def main() -> None:
    parser = argparse.ArgumentParser(description="Find what a rollout's seconds are lost to, in virtual time.")
    parser.add_argument("--replicas", type=int, default=256, help="leaves out sizes with more")
    most = parser.parse_args().replicas
    logging.disable(logging.WARNING)  # a slow call is part of the world
    gc.disable()  # the many living objects of a batch make each collection long
    print(
        "16 leaves a prompt. Multiples of the lower bound: a clairvoyant's schedule; replays with any replica for each"
    )
    print("turn, with top-ups at once, with forks at once; the rollout. Then the seconds of the last leaf.\n")
    print("prompts a            lower |  clair-  any    top-ups forks   roll- |        tokens           root   fork")
    print(
        "replica  rep. seeds  bound |  voyant  replica at once at once out  |  tools alone  shared queued late   late"
    )
    for prompts, replicas, seeds in SIZES:
        if replicas <= most:
            rows = [causes(Scenario(prompts * replicas, replicas), seed) for seed in range(seeds)]
            print(f"{prompts:7}  {replicas:4}  {seeds:5}{row(rows)}", flush=True)
            gc.collect()
    print(f"\n{time.process_time():.0f} s of CPU time")


if __name__ == "__main__":
    main()
