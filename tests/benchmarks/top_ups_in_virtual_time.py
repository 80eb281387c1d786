"""What waiting for forks costs: `python tests/benchmarks/top_ups_in_virtual_time.py`.

With `arpo.top_ups=certain` a missing leaf starts from the prompt when no living leaf can bring it any more, which is
late where leaves could fork and do not; with `expected`, when the living leaves are not expected to bring it, which
takes places from forks that would have come after all. The world is that of `schedule_in_virtual_time.py`, with the
probability of a further call varied. For each policy: the makespan, the leaves that forked and those that were topped
up, tool calls and sampled tokens, as multiples of those of `certain` in the same worlds; 64 prompts, 6 seeds.
"""

import logging
import statistics
import time
from dataclasses import dataclass, replace

from schedule_in_virtual_time import POLICY, Scenario, Schedule, simulate

from arpo_verl.config import ArpoConfig

SEEDS = 6
PROMPTS = 64
FURTHER_CALLS = {"0.2": (0.2, 0.2), "0.4": (0.4, 0.4), "0.4 to 0.8": (0.4, 0.8), "0.6": (0.6, 0.6), "0.8": (0.8, 0.8)}
BRANCHING = {
    "paper's": {},
    "Z = 4": {"branch_factor": 4},
    "α = 0.2": {"base_probability": 0.2},
    "N = 4": {"initial_rollouts": 4},
}


@dataclass(frozen=True)
class Means:
    """The means of one policy in one world, over the seeds."""

    makespan: float
    forks: float
    top_ups: float
    calls: float
    tokens: float


def measure(scenario: Scenario, top_ups: str) -> Means:
    schedule = Schedule(top_ups, ArpoConfig(top_ups=top_ups))
    outcomes = [simulate(scenario, schedule, seed) for seed in range(SEEDS)]

    def mean(name: str) -> float:
        return statistics.fmean(getattr(outcome, name) for outcome in outcomes)

    return Means(mean("makespan"), mean("forks"), mean("top_ups"), mean("calls"), mean("generated_tokens"))


def main() -> None:
    logging.disable(logging.WARNING)  # a slow call is part of the world
    print(f"{PROMPTS} prompts of 16 leaves, {SEEDS} seeds; expected against certain\n")
    print("further calls  branching   makespan       of     forks    top-ups    calls   tokens")
    print("                           certain, s  certain  a prompt  a prompt   of certain")
    for calls, probabilities in FURTHER_CALLS.items():
        for branching, knobs in BRANCHING.items():
            policy = replace(POLICY, further_calls=probabilities)
            scenario = replace(Scenario(PROMPTS), policy=policy, arpo=knobs)
            certain, expected = measure(scenario, "certain"), measure(scenario, "expected")
            print(
                f"{calls:13}  {branching:10}  {certain.makespan:9.1f}  {expected.makespan / certain.makespan:7.2f}  "
                f"{certain.forks / PROMPTS:3.1f}, {expected.forks / PROMPTS:3.1f}  "
                f"{certain.top_ups / PROMPTS:3.1f}, {expected.top_ups / PROMPTS:3.1f}  "
                f"{expected.calls / certain.calls:6.2f}  {expected.tokens / certain.tokens:6.2f}"
            )
    print(f"\n{time.process_time():.0f} s of CPU time")


if __name__ == "__main__":
    main()
