"""What all figures share: colours, bands, and files that are the same for the same numbers. Needs matplotlib."""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from arpo_verl.figures.estimates import Estimate

PALETTE = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f3c8d", "#a5aa99"),
    *("#e73f74", "#11a579", "#80ba5a"),
)
GREY = "#666666"
# Text as text keeps an SVG small and searchable; the salt keeps it the same.
STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "arpo-verl", "font.size": 9}


def save(draw: Callable[[Figure], None], size: tuple[float, float], path: Path) -> None:
    """Draw a figure into a file, at once: half a figure never stands there.

    Args:
        draw: fills the figure.
        size: width and height in inches.
        path: its suffix, `.svg` or `.png`, says in what format.
    """
    form = path.suffix[1:]
    draft = path.with_name(f"{path.name}.draft")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained", dpi=150)
        draw(figure)
        figure.savefig(draft, format=form, metadata={"Date": None} if form == "svg" else None)
    os.replace(draft, path)


def colour(place: int) -> str:
    """Return a colour for each place, again and again."""
    return PALETTE[place % len(PALETTE)]


def draw_band(
    axes: Axes, x: Sequence[float], estimates: Sequence[Estimate], label: str, style: str, colour: str
) -> None:
    """Draw means as a line, and their intervals as a band where there are any."""
    axes.plot(x, [value.mean for value in estimates], style, color=colour, label=label)
    low, high = ([value.mean + sign * value.half_width for value in estimates] for sign in (-1, 1))
    has_interval = [math.isfinite(value.half_width) for value in estimates]
    axes.fill_between(x, low, high, where=has_interval, color=colour, alpha=0.12, linewidth=0)


def limit_to_lines(axes: Axes, margin: float) -> None:
    """Set the vertical limits to the lines' range and a share of it above and below; level lines keep the default."""
    heights = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.lines])
    low, high = float(heights.min()), float(heights.max())
    if low < high:
        axes.set_ylim(low - margin * (high - low), high + margin * (high - low))
