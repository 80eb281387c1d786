"""Reward against steps, tool calls, tokens and seconds, of one run or of several.

Runs whose folders differ in `-seed<number>` alone are the seeds of one line: its mean, with a band of 95 % over seeds.
Costs are what was really executed: a call or a token that leaves share counts once. The reward of a step is that of
leaves that start at the prompt: forks happen only after tool calls, so that among all leaves those that call are over-
represented.
"""

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from arpo_verl.figures.drawing import colour, draw_band, limit_to_lines
from arpo_verl.figures.estimates import Curve, align, estimate
from arpo_verl.record import RecordedStep

SIZE = (9.0, 6.4)
SMOOTHED_STEPS = 5
"""Rewards are averaged over neighbouring steps: a step has few prompts."""
COSTS = {
    "steps": "training steps",
    "calls": "executed tool calls",
    "tokens": "generated tokens",
    "seconds": "seconds of training",
}


@dataclass(frozen=True)
class StepCost:
    """What one step earned, and what it cost."""

    reward: float
    calls: float
    tokens: float
    seconds: float | None
    steps: float = 1.0


def step_cost(step: RecordedStep) -> StepCost | None:
    """Return what a step earned and cost; None if no leaf that starts at the prompt has a reward."""
    rewards = [
        leaf.reward
        for _, leaf in step.rows()
        if leaf.reward is not None and leaf.parent is None and not leaf.is_top_up and leaf.replayed_step is None
    ]
    segments = [segment for prompt in step.prompts for segment in prompt.segments]
    if not rewards:
        return None
    return StepCost(
        statistics.fmean(rewards),
        sum(len(segment.calls) for segment in segments),
        sum(segment.tokens for segment in segments if segment.is_sampled),
        step.seconds.get("step"),
    )


def curve_of(costs: Sequence[StepCost], kind: str) -> Curve | None:
    """Return reward against what had been spent before each step; None where a step does not say what it cost."""
    spent = [getattr(cost, kind) for cost in costs]
    if None in spent:
        return None
    return Curve([0.0, *accumulate(spent)][:-1], [cost.reward for cost in costs])


def by_name(runs: Mapping[Path, Iterable[RecordedStep]]) -> dict[str, list[list[StepCost]]]:
    """Return the steps of runs by the names of their folders without `-seed<number>`.

    Raises:
        ValueError: a run has no step with a reward.
    """
    found: dict[str, list[list[StepCost]]] = {}
    for path, steps in runs.items():
        costs = [cost for step in steps if (cost := step_cost(step)) is not None]
        if not costs:
            raise ValueError(f"{path}: no leaf has a reward; expected the record of a training run")
        found.setdefault(re.sub(r"-seed\d+$", "", path.resolve().name), []).append(costs)
    return found


def draw(figure: Figure, runs: Mapping[str, Sequence[Sequence[StepCost]]]) -> None:
    """Draw a panel for each cost; one that a run does not know has no line of it."""
    for axes, (kind, label) in zip(figure.subplots(2, 2).flat, COSTS.items(), strict=True):
        for place, (name, seeds) in enumerate(runs.items()):
            curves = [curve for costs in seeds if (curve := curve_of(costs, kind)) is not None]
            if len(curves) == len(seeds):
                _draw_line(axes, curves, name, colour(place))
        axes.set(xlabel=f"{label} before the batch", ylabel="reward of the policy")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if axes.lines:
            limit_to_lines(axes, margin=0.2)
    figure.axes[0].legend(loc="lower right", frameon=False)


def _draw_line(axes: Axes, curves: Sequence[Curve], name: str, shade: str) -> None:
    smooth = [curve.smoothed(SMOOTHED_STEPS) for curve in curves]
    if len(curves) == 1:
        axes.plot(curves[0].spent, curves[0].reward, ".", color=shade, alpha=0.35, markersize=3)
        axes.plot(smooth[0].spent, smooth[0].reward, "-", color=shade, label=name)
        return
    grid, rewards = align(smooth)
    means = [estimate(values) for values in zip(*rewards, strict=True)]
    draw_band(axes, grid, means, f"{name} ({len(curves)} seeds)", "-", shade)
