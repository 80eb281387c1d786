"""Draws the comparison: reward against steps, tool calls and tokens, and the actor's entropies. Needs matplotlib.

Lines are means over seeds, bands their 95 % intervals. Rewards are averaged over neighbouring steps first, because a
single step has 16 prompts. The axes' limits follow the lines; with few seeds the bands go beyond them. Where arms end
at different costs, each line ends where the cheapest seed of its arm does; nothing is extrapolated.
"""

from collections.abc import Sequence
from pathlib import Path

from comparison_table import Seed, by_step
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from arpo_verl.figures.drawing import draw_band, limit_to_lines, save
from arpo_verl.figures.estimates import align, estimate

COLOURS = {"grpo": "#444444", "arpo_soft": "#0072b2", "arpo_hard": "#d55e00", "arpo_random": "#009e73"}
OTHER_COLOURS = ("#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f3c8d", "#a5aa99", "#e73f74", "#11a579", "#80ba5a")
"""Of arms that have none above, in their order, again and again."""
COSTS = {
    None: "training steps",
    "tool_calls": "executed tool calls",
    "generated_tokens": "generated tokens",
}
SMOOTHED_STEPS = 5
ENTROPIES = {
    "entropy_initial": ("first tokens of a root", ":"),
    "entropy_after_tool": ("first tokens after a tool result", "-"),
    "entropy_elsewhere": ("all tokens not after a tool result", "--"),
}


def draw(seeds: Sequence[Seed], path: Path) -> None:
    """Write the figure; the same seeds give the same file."""
    save(lambda figure: fill(figure, seeds), (10, 7), path)


def fill(figure: Figure, seeds: Sequence[Seed]) -> None:
    """Draw a panel for each cost, and one of the entropies."""
    panels = figure.subplots(2, 2).flat
    for axes, (cost, label) in zip(panels, COSTS.items(), strict=False):
        draw_rewards(axes, seeds, cost)
        axes.set(xlabel=f"{label} before the batch", ylabel="reward of the policy")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    draw_entropies(figure.axes[-1], seeds)


def colours(seeds: Sequence[Seed]) -> dict[str, str]:
    """Return the colour of each arm."""
    others = iter(OTHER_COLOURS * (1 + len(seeds[0]) // len(OTHER_COLOURS)))
    return {arm: COLOURS.get(arm) or next(others) for arm in seeds[0]}


def draw_rewards(axes: Axes, seeds: Sequence[Seed], cost: str | None) -> None:
    """Draw each arm's reward against what had been spent."""
    for arm in seeds[0]:
        grid, rewards = align([seed[arm].curve(cost).smoothed(SMOOTHED_STEPS) for seed in seeds])
        means = [estimate(values) for values in zip(*rewards, strict=True)]
        draw_band(axes, grid, means, arm, "-", colours(seeds)[arm])
    limit_to_lines(axes, margin=0.6)
    axes.legend(loc="lower right", frameon=False)


def draw_entropies(axes: Axes, seeds: Sequence[Seed]) -> None:
    """Draw the entropies of the first arm that has them: other arms start from the same model."""
    for arm in seeds[0]:
        values = {name: by_step(seeds, arm, name) for name in ENTROPIES}
        if any(None in series for series in values.values()):
            continue
        for name, (label, style) in ENTROPIES.items():
            series = [value for value in values[name] if value is not None]
            draw_band(axes, list(range(len(series))), series, label, style, colours(seeds)[arm])
        axes.set(xlabel="training steps before the batch", ylabel="entropy in nats", title=arm)
        limit_to_lines(axes, margin=0.3)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="upper right", frameon=False)
        return
