"""The statistics of runs of several arms and seeds: estimates with 95 % intervals, common curves, and Markdown.

Pure functions over records; nothing here trains, reads or writes a file. The unit of all statistics is the seed: the
interval is Student's t over the seeds' values, and a difference between arms is taken within each seed first.
"""

import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate

from arpo_verl.figures.estimates import GRID_POINTS, Curve, Estimate, align, estimate

BASELINES = ("grpo", "arpo_soft")
"""The arms that the others are compared with: no branching, and ARPO with its defaults."""
MOST_COLUMNS = 6
"""Of a table, its first one included."""
LATE_STEPS = 5
"""Steps at the end of a run whose mean reward stands for its end: a single step has 16 prompts."""


@dataclass(frozen=True)
class StepRecord:
    """What one training step cost and earned. What only trees have is 0 or None without them."""

    reward: float
    """Mean over the leaves that start at the prompt: that of the policy before this step's update."""
    leaf_reward: float
    """Mean over all leaves, as verl logs it; in a tree, leaves that call tools weigh more."""
    tool_calls: float
    leaf_calls: float
    """The number of calls in the texts of all leaves: those executed if leaves shared nothing."""
    generated_tokens: float
    shared_tokens: float
    """Share of the leaves' tokens that had been generated for another leaf already."""
    equal_prompts: float
    """Share of prompts whose leaves all earn the same, which teaches nothing."""
    equal_forks: float | None
    """Share of forks that earn what their parent does."""
    branches: float
    top_ups: float
    branch_probability: float | None
    entropy_initial: float | None
    """Mean entropy of the first k tokens of the roots, in nats, measured by the rollout."""
    entropy_after_tool: float | None
    """Mean entropy of the first k tokens after a tool result, in nats, measured by the actor."""
    entropy_elsewhere: float | None
    """Mean entropy of all other sampled tokens, in nats, measured by the actor."""


@dataclass(frozen=True)
class RunRecord:
    """A finished run."""

    arm: str
    seed: int
    validation: dict[str, dict[str, float]]
    """`before`, `after` and `gain`, as `validation.compare` returns them."""
    steps: list[StepRecord]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "RunRecord":
        values = json.loads(text)
        return cls(**{**values, "steps": [StepRecord(**step) for step in values["steps"]]})

    def total(self, cost: str) -> float:
        return math.fsum(getattr(step, cost) for step in self.steps)

    def curve(self, cost: str | None = None) -> Curve:
        """Return reward against what had been spent when the step's policy was made, or against updates made."""
        spent = [0.0, *accumulate(1.0 if cost is None else getattr(step, cost) for step in self.steps)]
        return Curve(spent[:-1], [step.reward for step in self.steps])


Seed = dict[str, RunRecord]
"""The runs of one seed, by arm."""


def by_step(seeds: Sequence[Seed], arm: str, field: str) -> list[Estimate | None]:
    """Return the estimate of a field of each step over seeds; None where a seed has no value."""
    columns = zip(*([getattr(step, field) for step in seed[arm].steps] for seed in seeds), strict=True)
    return [None if None in values else estimate(values) for values in columns]


def reward_at(seed: Seed, cost: str, end: float) -> dict[str, float]:
    """Return each arm's mean reward over the last quarter of a common budget."""
    _, rewards = align([run.curve(cost) for run in seed.values()], end)
    late = GRID_POINTS * 3 // 4
    return {arm: statistics.fmean(values[late:]) for arm, values in zip(seed, rewards, strict=True)}


def common_budget(seeds: Sequence[Seed], cost: str) -> float:
    """Return the largest cost that every run reaches."""
    return min(run.curve(cost).spent[-1] for seed in seeds for run in seed.values())


@dataclass(frozen=True)
class Measure:
    """One row of the table: a number for each arm, for each seed."""

    label: str
    values: list[dict[str, float]]
    is_cost: bool = False
    """Counted, and compared in per cent; a reward is compared by its difference."""


def measures(seeds: Sequence[Seed]) -> list[Measure]:
    """Return what the table compares."""

    def per_run(value: Callable[[RunRecord], float]) -> list[dict[str, float]]:
        return [{arm: value(run) for arm, run in seed.items()} for seed in seeds]

    calls, tokens = (common_budget(seeds, cost) for cost in ("tool_calls", "generated_tokens"))
    return [
        Measure("validation reward", per_run(lambda run: run.validation["after"]["reward"])),
        Measure("validation accuracy", per_run(lambda run: run.validation["after"]["accuracy"])),
        Measure("reward, mean of all steps", per_run(lambda run: late_reward(run, len(run.steps)))),
        Measure(f"reward, last {LATE_STEPS} steps", per_run(lambda run: late_reward(run, LATE_STEPS))),
        Measure(f"reward near {calls:.0f} tool calls", [reward_at(seed, "tool_calls", calls) for seed in seeds]),
        Measure(f"reward near {tokens:.0f} tokens", [reward_at(seed, "generated_tokens", tokens) for seed in seeds]),
        Measure("validation reward gained per 1000 tool calls", per_run(gain_per_1000_calls)),
        Measure("tool calls", per_run(lambda run: run.total("tool_calls")), is_cost=True),
        Measure("tool calls of the first step", per_run(lambda run: run.steps[0].tool_calls), is_cost=True),
        Measure("generated tokens", per_run(lambda run: run.total("generated_tokens")), is_cost=True),
        Measure("generated tokens of the first step", per_run(lambda run: run.steps[0].generated_tokens), is_cost=True),
    ]


def tree_measures(seeds: Sequence[Seed]) -> list[tuple[str, list[dict[str, float | None]]]]:
    """Return what describes the trees, by label: means over the steps of each run, None where no step has a value."""

    def per_run(value: Callable[[StepRecord], float | None]) -> list[dict[str, float | None]]:
        return [{arm: mean_of_known(map(value, run.steps)) for arm, run in seed.items()} for seed in seeds]

    return [
        ("forks a prompt", per_run(lambda step: step.branches)),
        ("top-ups a prompt", per_run(lambda step: step.top_ups)),
        ("fork probability", per_run(lambda step: step.branch_probability)),
        ("share of calls saved by sharing", per_run(saved_calls)),
        ("share of tokens saved by sharing", per_run(lambda step: step.shared_tokens)),
        ("forks that earn what their parent does", per_run(lambda step: step.equal_forks)),
        ("prompts whose leaves all earn the same", per_run(lambda step: step.equal_prompts)),
        ("reward of all leaves less that of leaves from the prompt", per_run(lambda s: s.leaf_reward - s.reward)),
        ("entropy, first tokens of a root", per_run(lambda step: step.entropy_initial)),
        ("entropy, first tokens after a tool result", per_run(lambda step: step.entropy_after_tool)),
        ("entropy, all other tokens", per_run(lambda step: step.entropy_elsewhere)),
    ]


def saved_calls(step: StepRecord) -> float | None:
    return 1 - step.tool_calls / step.leaf_calls if step.leaf_calls else None


def mean_of_known(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def gain_per_1000_calls(run: RunRecord) -> float:
    gain = run.validation["after"]["reward"] - run.validation["before"]["reward"]
    return 1000 * gain / run.total("tool_calls")


def late_reward(run: RunRecord, steps: int) -> float:
    return statistics.fmean(step.reward for step in run.steps[-steps:])


def render(seeds: Sequence[Seed]) -> str:
    """Return the comparison as Markdown: means, paired differences, the validation of each seed, and the trees."""
    if not seeds:
        return "No seed of which every arm has ended.\n"
    arms = list(seeds[0])
    rows = measures(seeds)
    parts = [means(rows, arms)]
    for number, baseline in enumerate(BASELINES):
        others = [arm for arm in arms if arm not in BASELINES[: number + 1]]
        if baseline in arms and others:
            parts.append(differences(rows, others, baseline))
    parts += [by_seed(seeds, arms), trees(seeds, arms)]
    return "\n\n".join(parts) + "\n"


def means(rows: Sequence[Measure], arms: Sequence[str]) -> str:
    """Return the table of means with the half width of their intervals."""
    lines = []
    for row in rows:
        estimates = [estimate([of_seed[arm] for of_seed in row.values]) for arm in arms]
        lines.append([row.label, *(written(value, ".0f" if row.is_cost else ".3f") for value in estimates)])
    return markdown(["mean over seeds", *arms], lines)


def differences(rows: Sequence[Measure], arms: Sequence[str], baseline: str) -> str:
    """Return the table of differences from a baseline within a seed; bold where the interval excludes 0."""
    lines = []
    for row in rows:
        cells = []
        for arm in arms:
            difference = estimate([gap(of_seed[arm], of_seed[baseline], row.is_cost) for of_seed in row.values])
            text = f"{written(difference, '.1f', '+')} %" if row.is_cost else written(difference, ".3f", "+")
            cells.append(f"**{text}**" if difference.is_different_from_zero else text)
        lines.append([row.label, *cells])
    return markdown([f"difference from {baseline}", *arms], lines)


def gap(value: float, baseline: float, is_cost: bool) -> float:
    """Return the difference, in per cent of the baseline for a cost."""
    return 100 * (value / baseline - 1) if is_cost else value - baseline


def by_seed(seeds: Sequence[Seed], arms: Sequence[str]) -> str:
    """Return the validation reward of each run, that of the common model before training first."""
    lines = []
    for seed in seeds:
        runs = [seed[arm] for arm in arms]
        rewards = [runs[0].validation["before"]["reward"], *(run.validation["after"]["reward"] for run in runs)]
        lines.append([str(runs[0].seed), *(f"{reward:.3f}" for reward in rewards)])
    return markdown(["validation reward, seed", "before", *arms], lines)


def trees(seeds: Sequence[Seed], arms: Sequence[str]) -> str:
    """Return the table about trees; a dash where an arm has no such thing."""
    lines = []
    for label, values in tree_measures(seeds):
        cells = []
        for arm in arms:
            known = [value for of_seed in values if (value := of_seed[arm]) is not None]
            cells.append(written(estimate(known), ".3f") if len(known) == len(seeds) else "–")
        lines.append([label, *cells])
    return markdown(["mean over steps and seeds", *arms], lines)


def written(value: Estimate, number: str, sign: str = "") -> str:
    half_width = f"{value.half_width:{number}}" if math.isfinite(value.half_width) else "∞"
    return f"{value.mean:{sign}{number}} ± {half_width}"


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, numbers to the right; of many arms one or more tables with a line for each arm."""
    if len(header) <= MOST_COLUMNS:
        return _table(header, lines)
    parts = [lines[first : first + MOST_COLUMNS - 1] for first in range(0, len(lines), MOST_COLUMNS - 1)]
    return "\n\n".join(
        _table(columns[0], columns[1:]) for part in parts for columns in [[*zip(header, *part, strict=True)]]
    )


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in header[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *lines))
