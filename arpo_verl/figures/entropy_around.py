"""How uncertain the policy is around tool results, token by token (the paper's figure 2, left), from a record.

What leaves share counts once. A mean is over prompts, each of which is the mean of its results, and so is the interval.
"""

import math
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from arpo_verl.figures.estimates import Estimate, estimate
from arpo_verl.record import RecordedPrompt, RecordedSegment, RecordedStep
from arpo_verl.record.token_values import unpack

START = "start of a response"
"""Stands for a tool where there is none: the first tokens after the prompt."""
FEWEST = 0.1
"""Of the prompts at a tool's most frequent position: a mean over fewer would stand as large as the others."""


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
    by_prompt: list[dict[str, dict[int, float]]] = field(default_factory=list)
    """The same means by prompt, in its order."""

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
        means = {tool: {at: statistics.fmean(each) for at, each in of.items()} for tool, of in of_prompt.items()}
        found.by_prompt.append(means)
        for tool, by_position in means.items():
            for position, mean in by_position.items():
                found.by_tool.setdefault(tool, {}).setdefault(position, []).append(mean)
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
