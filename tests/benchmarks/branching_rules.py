"""Errors of the gradient at equal cost, under branching rules, in small worlds where it is known what there is to find.

The rules see the same policy, which does not change; the advantage is the same unbiased one for all (`shrunk`, children
by their mean, inverse multiplicity). Efficiency is the cost times the mean squared error of a prompt's gradient without
branching, over the same with it: 1.10 means that the same error costs 10 % more without. `late` is a fixed rule that
forks every leaf at its second result and nowhere else.

python tests/benchmarks/branching_rules.py
"""

import argparse
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from decision_world import ACTIONS, CALL_TOKENS, TURNS, DecisionWorld, Kind, Way, cost_of, squared_errors

from arpo_verl.config import ArpoConfig
from arpo_verl.diagnostics import ForkPoints, GrownTrees, branching_metrics
from arpo_verl.rollout.leaf_record import LeafRecord
from arpo_verl.rules import build_rule

LEAVES, ROOTS, PROMPTS = 16, 8, 24
ADVANTAGE = {"terms": [{"unit": "node", "baseline": "shrunk"}], "value": "child_mean", "multiplicity": "inverse"}
T_975 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)
"""97.5 % quantiles of Student's t for 2 and more seeds."""
FLAT = (0.25,) * 4
PEAKED = (0.91, 0.03, 0.03, 0.03)
USUAL = (0.4, 0.3, 0.2, 0.1)


def usual(way: Way) -> Sequence[float]:
    return USUAL


def _by_last(way: Way) -> float:
    return (0.95, 0.65, 0.35, 0.05)[way[-1]]


def _open_after_even(way: Way) -> Sequence[float]:
    """After an even first action all that follows is open, after an odd one it is all but decided."""
    return USUAL if not way else FLAT if way[0] % 2 == 0 else PEAKED


WORLDS: dict[str, list[Kind]] = {
    "the first decision decides": [Kind("all", usual, lambda way: (0.95, 0.65, 0.35, 0.05)[way[0]])],
    "the last decision decides": [Kind("all", usual, _by_last)],
    # Where decisions are open they matter; where they are not, the outcome is all but sure.
    "entropy tells": [
        Kind("all", _open_after_even, lambda way: _by_last(way) if way[0] % 2 == 0 else (0.98 if way[0] == 1 else 0.02))
    ],
    # Where the next words are open, the question is all but solved; where they are not, the outcome is open.
    "entropy misleads": [
        Kind("all", _open_after_even, lambda way: 0.98 if way[0] % 2 == 0 else (0.6, 0.2, 0.2, 0.2)[way[-1]])
    ],
    # Of three sources one is solved, one hopeless, one open; the entropy is the same.
    "the kind of question tells": [
        Kind("solved", usual, lambda way: 0.98),
        Kind("open", usual, _by_last),
        Kind("hopeless", usual, lambda way: 0.02),
    ],
    # After a call that has failed the leaf fails; the entropy is the same.
    "the tool's status tells": [
        Kind(
            "all",
            lambda way: FLAT,
            lambda way: 0.02 if any(one % 2 for one in way[:2]) else _by_last(way),
            lambda way: "model_error" if way[-1] % 2 else "ok",
        )
    ],
}
USUAL_CONFIG = ArpoConfig(
    initial_rollouts=ROOTS, base_probability=0.5, schedule="lockstep", branch_timing="segment", probe_tokens=10
)
RULES: dict[str, ArpoConfig] = {
    "none": replace(USUAL_CONFIG, rule="linear"),
    "random": replace(USUAL_CONFIG, entropy_weight=0.0),
    "entropy": USUAL_CONFIG,
    "entropy, weight 1": replace(USUAL_CONFIG, entropy_weight=1.0),
    "late": replace(USUAL_CONFIG, rule="decision_world.SecondResult"),
    "expected variance": replace(USUAL_CONFIG, rule="expected_variance", rule_kwargs={"call_tokens": CALL_TOKENS}),
}


@dataclass(frozen=True)
class Measured:
    """What one rule came to in one world, with one seed."""

    error: float
    """Mean squared error of a prompt's gradient."""
    cost: float
    """Of a prompt, in sampled tokens."""
    lift: float
    """Mean of `tree/lift` over the steps; NaN without forks."""
    coverage: float
    """Mean of `tree/lift/coverage`."""
    forks: float
    """Leaves of a prompt that have forked."""

    @property
    def product(self) -> float:
        return self.error * self.cost


def has_one_entropy(world: str) -> bool:
    """Whether all decisions of a world have the same entropy; then rules that look at it are the random one."""
    kinds = WORLDS[world]
    found = {kind.entropy(way) for kind in kinds for decisions in range(TURNS) for way in kind.ways(decisions)}
    return len(found) == 1


def measured(world: str, rule: str, seed: int, steps: int, first: int) -> "Measured":
    """Return what `measure` does, of rules that are the same only once."""
    is_random = RULES[rule].rule == "bernoulli" and has_one_entropy(world)
    return measure(world, "random" if is_random else rule, seed, steps, first)


@cache
def measure(world_name: str, rule_name: str, seed: int, steps: int, first: int) -> Measured:
    """Run some steps in which the rule learns and measure the steps after them, in which it goes on learning.

    Args:
        world_name: of `WORLDS`.
        rule_name: of `RULES`.
        seed: the same one gives the same numbers.
        steps: that are measured.
        first: steps before them.
    """
    world, config = DecisionWorld(WORLDS[world_name]), RULES[rule_name]
    rule = build_rule(config)
    memory = None
    kinds = [number % len(world.kinds) for number in range(PROMPTS)]
    errors: list[float] = []
    costs: list[float] = []
    lifts: list[tuple[float, float]] = []
    forks = 0
    for step in range(first + steps):
        informed = rule if memory is None else rule.with_memory(memory)
        is_measured = step >= first
        if not is_measured and memory is None and step > 0:
            continue  # a rule that learns nothing has nothing to begin with
        trees = world.grow(kinds, informed, config, LEAVES, f"{seed}/{step}")
        leaves = [leaf for tree in trees for leaf in tree]
        records = [LeafRecord.from_leaf(leaf, LEAVES) for leaf in leaves]
        prompts = [number for number, tree in enumerate(trees) for _ in tree]
        grown = GrownTrees.of(records, prompts, [leaf.reward or 0.0 for leaf in leaves])
        points = ForkPoints.of(grown)
        memory = rule.learn(memory, points.outcomes())
        if is_measured:
            errors += squared_errors(world, kinds, trees, ADVANTAGE)
            costs += [cost_of(tree) for tree in trees]
            forks += sum(leaf.parent is not None for leaf in leaves)
            seen = branching_metrics(grown, points)
            lifts += [(seen["tree/lift"], seen["tree/lift/coverage"])] if "tree/lift" in seen else []
    return Measured(
        statistics.fmean(errors),
        statistics.fmean(costs),
        statistics.fmean(lift for lift, _ in lifts) if lifts else math.nan,
        statistics.fmean(coverage for _, coverage in lifts) if lifts else math.nan,
        forks / len(errors),
    )


def efficiencies(world: str, rule: str, seeds: int, steps: int, first: int) -> list[float]:
    """Return the efficiency of a rule against no branching, one for each seed."""
    return [
        measured(world, "none", seed, steps, first).product / measured(world, rule, seed, steps, first).product
        for seed in range(seeds)
    ]


def print_world(world: str, seeds: int, steps: int, first: int) -> None:
    print(f"\n{world}")
    print(f"{'':20} efficiency      against random  error x 1000   cost  forks  lift  covers")
    against = efficiencies(world, "random", seeds, steps, first)
    for rule in RULES:
        found = efficiencies(world, rule, seeds, steps, first)
        ratios = [one / other for one, other in zip(found, against, strict=True)]
        seen = [measured(world, rule, seed, steps, first) for seed in range(seeds)]
        error, cost, forks, lift, coverage = (
            statistics.fmean(getattr(one, name) for one in seen)
            for name in ("error", "cost", "forks", "lift", "coverage")
        )
        print(
            f"{rule:20} {interval(found)}   {interval(ratios)}      {1e3 * error:8.3f}  {cost:5.0f}  {forks:5.2f}  "
            f"{lift:4.2f}    {coverage:4.2f}"
        )


def interval(values: Sequence[float]) -> str:
    """Return the mean over seeds, and half of its 95 % interval."""
    half = T_975[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.fmean(values):.3f} ± {half:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare branching rules at equal cost.")
    parser.add_argument("--seeds", type=int, default=4, help="2 to 16")
    parser.add_argument("--steps", type=int, default=8, help="measured steps of each seed")
    parser.add_argument("--first", type=int, default=6, help="steps before them, in which a rule learns")
    parser.add_argument("--worlds", nargs="*", choices=WORLDS, default=list(WORLDS), metavar="WORLD")
    given = parser.parse_args()
    print(f"{given.seeds} seeds of {given.steps} steps of {PROMPTS} prompts, {LEAVES} leaves, {ROOTS} roots, after "
          f"{given.first} steps; {ACTIONS} actions")  # fmt: skip
    for world in given.worlds:
        print_world(world, given.seeds, given.steps, given.first)
    print(f"\n{time.process_time():.0f} s of CPU time")


if __name__ == "__main__":
    main()
