"""The paper's motivation (figure 2, left): how uncertain the policy is around tool results, token by token.

What leaves share counts once. A mean is over prompts, each of which is the mean of its results, and so is the interval.
"""

import numpy as np
from matplotlib.figure import Figure, SubFigure

from arpo_verl.figures.drawing import GREY, colour, draw_band
from arpo_verl.figures.entropy_around import START, EntropyAround

SIZE = (7.5, 4.2)


def draw(figure: Figure | SubFigure, around: EntropyAround) -> None:
    """Draw a line and a band a tool, and the first tokens of responses as a dotted line."""
    axes = figure.subplots()
    tools = sorted(around.by_tool.keys() - {START})
    for place, tool in enumerate(tools):
        positions, values = around.estimates(tool)
        split = sum(position < 0 for position in positions)
        label = f"{tool} ({around.results[tool]} results)"
        for part in (slice(0, split), slice(split, None)):
            if positions[part]:
                draw_band(axes, positions[part], values[part], label, "-", colour(place))
                label = "_nolegend_"
    if START in around.by_tool:
        draw_band(axes, *around.estimates(START), START, ":", GREY)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.text(0, 1.01, "tool result", transform=axes.get_xaxis_transform(), ha="center", color=GREY)
    what = "entropy" if around.is_entropy else "surprisal (minus log-probability)"
    axes.set(xlabel="sampled tokens before and after the result", ylabel=f"{what} in nats")
    highest = max(float(np.max(np.asarray(line.get_ydata(), dtype=float))) for line in axes.lines[:-1])
    axes.set_ylim(0, 1.15 * highest if highest else 1.0)
    axes.legend(frameon=False)
