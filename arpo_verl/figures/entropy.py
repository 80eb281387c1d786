"""The paper's motivation (figure 2, left): how uncertain the policy is around tool results, token by token.

What leaves share counts once. A mean is over prompts, each of which is the mean of its results, and so is the interval.
"""

import math
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure

from arpo_verl.figures.drawing import GREY, colour, draw_band
from arpo_verl.figures.estimates import Estimate, estimate
from arpo_verl.record import RecordedPrompt, RecordedSegment, RecordedStep
from arpo_verl.record.token_values import unpack

SIZE = (7.5, 4.2)
FEWEST = 0.1
"""Of the prompts at a tool's most frequent position: a mean over fewer would be drawn as large as the others."""
START = "start of a response"
"""Stands for a tool where there is none: the first tokens after the prompt."""


@dataclass
class EntropyAround:
    """Uncertainty by position around tool results, in nats.

    Position -1 is the last sampled token before a result, 1 the first after it.
    """

    is_entropy: bool = True
    """False: the record has no entropies of the actor, and these are surprisals (minus log-probability), whose
    expected value is the entropy."""
    by_tool: dict[str, dict[int, list[float]]] = field(default_factory=dict)
    """The means of prompts by tool and position; calls of several tools at once are a tool of their own."""
    results: dict[str, int] = field(default_factory=dict)
    """The number of results that were seen, by tool."""

    def estimates(self, tool: str) -> tuple[list[int], list[Estimate]]:
        """Return the positions of a tool in order, and the mean at each; those that few prompts reach are left out."""
        by_position = self.by_tool[tool]
        fewest = FEWEST * max(map(len, by_position.values()))
        positions = sorted(position for position, means in by_position.items() if len(means) >= fewest)
        return positions, [estimate(self.by_tool[tool][position]) for position in positions]


def entropy_around_results(steps: Iterable[RecordedStep], reach: int) -> EntropyAround:
    """Return how uncertain the policy was at most `reach` tokens before and after each tool result.

    Raises:
        ValueError: no token of the steps has an entropy or a log-probability.
    """
    prompts = [prompt for step in steps for prompt in step.prompts]
    has_entropies = any(segment.entropies for prompt in prompts for segment in prompt.segments)
    found = EntropyAround(has_entropies)
    for prompt in prompts:
        of_prompt: dict[str, dict[int, list[float]]] = {}
        for tool, values in _around(prompt, reach, has_entropies):
            found.results[tool] = found.results.get(tool, 0) + 1
            for position, value in values.items():
                of_prompt.setdefault(tool, {}).setdefault(position, []).append(value)
        for tool, by_position in of_prompt.items():
            for position, each in by_position.items():
                found.by_tool.setdefault(tool, {}).setdefault(position, []).append(statistics.fmean(each))
    if not found.by_tool:
        raise ValueError(
            "no token has an entropy or a log-probability; expected the record of a training run: those of evaluations "
            "and of runs with another agent loop have none"
        )
    return found


def _around(prompt: RecordedPrompt, reach: int, has_entropies: bool) -> Iterator[tuple[str, dict[int, float]]]:
    """Yield a tool and the values at positions around its result, for each result and each start of a response."""
    seen: set[tuple[int, ...]] = set()
    for leaf in prompt.leaves:
        places = tuple(leaf.segments)
        for at, place in enumerate(places):
            segment = prompt.segments[place]
            if at and not segment.calls:
                continue
            key = places[max(0, at - 1) : at + 2] if at else places[:1]
            if key in seen:
                continue
            seen.add(key)
            if not at:
                yield START, _after(segment, reach, has_entropies)
                continue
            before = _values(prompt.segments[places[at - 1]], has_entropies)[-reach:]
            values = {position - len(before): value for position, value in enumerate(before) if math.isfinite(value)}
            if at + 1 < len(places):
                values |= _after(prompt.segments[places[at + 1]], reach, has_entropies)
            yield " + ".join(sorted({call.tool for call in segment.calls})), values


def _after(segment: RecordedSegment, reach: int, has_entropies: bool) -> dict[int, float]:
    values = _values(segment, has_entropies)[:reach]
    return {position: value for position, value in enumerate(values, 1) if math.isfinite(value)}


def _values(segment: RecordedSegment, has_entropies: bool) -> list[float]:
    """Return a number for each sampled token; not a number where it is unknown."""
    if not segment.is_sampled:
        return []
    text = segment.entropies if has_entropies else segment.log_probs
    return [math.nan if value is None else value for value in unpack(text)]


def draw(figure: Figure, around: EntropyAround) -> None:
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
