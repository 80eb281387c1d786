"""What forking while leaves grow and forking in rounds cost: `python tests/benchmarks/rules_in_virtual_time.py`.

The world is that of `schedule_in_virtual_time.py`: 64 prompts of 16 leaves, 8 of them from the prompt. For each rule:
the makespan, tool calls and sampled tokens, as multiples of those of GRPO without branching in the same worlds; forks
and top-ups a prompt; and t1/t2 at the forks, tokens sampled before a fork point over those sampled after it by the
fork. Tokens and entropies of this world know nothing of answers, so that nothing here says what a rule is worth.
"""

import logging
import time
from typing import Any

from schedule_in_virtual_time import FLAT, Scenario, Schedule, _mean, simulate

from arpo_verl.config import ArpoConfig

SEEDS = 4
PROMPTS = 64
LATE = [0.1, 0.3, 0.5, 0.7]
"""α at a path's first four results."""


def rule(name: str, **settings: Any) -> Schedule:
    words = ", ".join(f"{key} {value}" for key, value in settings.items())
    return Schedule(f"{name} {words}".strip(), ArpoConfig(rule=name, rule_kwargs=settings))


RULES = (
    rule("bernoulli"),
    rule("bernoulli", depth_probabilities=LATE),
    rule("bernoulli", penalty="consecutive"),
    rule("bernoulli", roots="entropy_monitor"),
    rule("top_k"),
    rule("top_k", rounds=2, penalty="siblings"),
    rule("top_k", rounds=4, penalty="siblings"),
    rule("top_k", gate="tail", tail_turns=2),
    rule("top_k", score="cost_ratio"),
    rule("sample", first_turns=True),
    rule("sample", score="position"),
)


def main() -> None:
    logging.disable(logging.WARNING)  # a slow call is part of the world
    scenario = Scenario(PROMPTS)
    flat = [simulate(scenario, FLAT, seed) for seed in range(SEEDS)]
    print(f"{PROMPTS} prompts of 16 leaves, {SEEDS} seeds; multiples of GRPO without branching\n")
    print(f"{'':50}  makespan  calls  tokens  forks  top-ups  t1/t2")
    for schedule in RULES:
        outcomes = [simulate(scenario, schedule, seed) for seed in range(SEEDS)]
        ratios = [_mean(outcomes, name) / _mean(flat, name) for name in ("makespan", "calls", "generated_tokens")]
        forks, top_ups = (_mean(outcomes, name) / PROMPTS for name in ("forks", "top_ups"))
        print(
            f"{schedule.name:50}  {ratios[0]:8.2f}  {ratios[1]:5.2f}  {ratios[2]:6.2f}  {forks:5.1f}  {top_ups:7.1f}  "
            f"{_mean(outcomes, 'cost_ratio'):5.2f}"
        )
    print(f"\n{time.process_time():.0f} s of CPU time")


if __name__ == "__main__":
    main()
