"""A measurement as a figure: entropy around results, and what trees are predicted to cost. Needs matplotlib."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from arpo_verl.figures import entropy
from arpo_verl.figures.drawing import GREY, colour, save
from arpo_verl.measure.bootstrap import Interval
from arpo_verl.measure.law import GROUP, SHRUNK, SIBLINGS
from arpo_verl.measure.measurement import TOKENS, Measurement

SIZE = (11.0, 4.2)
LABELS = {GROUP: "all leaves", SIBLINGS: "siblings", SHRUNK: "best mix"}


def save_figure(measurement: Measurement, path: Path) -> None:
    """Draw the figure into a file whose suffix is .svg or .png.

    Args:
        measurement: with its intervals.
        path: of the file.
    """
    save(lambda figure: draw(figure, measurement), SIZE, path)


def draw(figure: Figure, measurement: Measurement) -> None:
    """Draw entropies on the left, where there are any, and costs by leaves of a root on the right."""
    if measurement.entropies is None:
        _draw_costs(figure.subplots(), measurement)
        return
    parts: Any = figure.subfigures(1, 2)
    left, right = parts
    entropy.draw(left, measurement.entropies.around)
    _draw_costs(right.subplots(), measurement)


def _draw_costs(axes: Axes, measurement: Measurement) -> None:
    """Draw the predicted costs at the depth of the best design, a line a baseline."""
    depth = measurement.depths[0].depth if measurement.best is None else measurement.best.depth
    for place, (baseline, label) in enumerate(LABELS.items()):
        found = [
            (one.leaves, one.costs[TOKENS])
            for one in measurement.designs
            if one.depth == depth and one.baseline == baseline and TOKENS in one.costs
        ]
        leaves = [1, *(number for number, _ in found)]
        costs = [Interval(1.0, 1.0, 1.0), *(cost for _, cost in found)]
        axes.plot(leaves, [cost.value for cost in costs], marker="o", markersize=3, color=colour(place), label=label)
        low, high = [cost.low for cost in costs], [cost.high for cost in costs]
        axes.fill_between(leaves, low, high, color=colour(place), alpha=0.12, linewidth=0)
    axes.axhline(1.0, color=GREY, linewidth=0.8)
    axes.set(xlabel=f"leaves of a root, forked after result {depth}", xscale="log")
    axes.set_ylabel("cost in sampled tokens for GRPO's variance")
    ticks = sorted({1, *(one.leaves for one in measurement.designs)})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.legend(frameon=False, title="baseline", loc="upper left")
