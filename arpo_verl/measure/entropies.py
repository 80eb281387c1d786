"""How uncertain the policy is before and after tool results, by tool and position, with intervals over prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from arpo_verl.figures.entropy_around import START, EntropyAround, entropy_around_results
from arpo_verl.measure.bootstrap import FEWEST_PROMPTS, Interval, Resampled
from arpo_verl.record import RecordedPrompt, RecordedStep

REACH = 20
"""Sampled tokens before and after a result: the paper's figure, and what its code watches."""


@dataclass(frozen=True)
class ToolEntropies:
    """Around the results of one tool, in nats. A number is None where too few prompts have one."""

    tool: str
    results: int
    before: Interval | None
    """Mean of the last 20 sampled tokens before."""
    after: Interval | None
    """Mean of the first 20 after."""
    change: Interval | None
    """After less before, of prompts that have both."""
    by_position: Mapping[int, Interval]
    """-1 is the last token before, 1 the first after; positions that few prompts have are absent."""


@dataclass(frozen=True)
class Entropies:
    """Of all tools."""

    is_entropy: bool
    """False: surprisals, whose expected value is the entropy."""
    start: Interval | None
    """Mean of the first 20 tokens of responses."""
    tools: list[ToolEntropies]
    around: EntropyAround
    """What they are computed from, for a figure."""


def entropies_of(prompts: Sequence[RecordedPrompt], seed: int = 0) -> Entropies | None:
    """Return the entropies around results; None where the record has none, or of too few prompts for an interval.

    Args:
        prompts: of the record.
        seed: of the bootstrap.
    """
    try:
        around = entropy_around_results([RecordedStep(0, prompts=prompts)], REACH)
    except ValueError:
        return None
    if len(around.by_prompt) < FEWEST_PROMPTS:
        return None
    for of_tool in around.by_tool.values():  # a band of two prompts would hide all others
        for position in [at for at, values in of_tool.items() if len(values) < FEWEST_PROMPTS]:
            del of_tool[position]
    tools = sorted(around.by_tool.keys() - {START})
    start = _of_tool(around, START, seed).after if START in around.by_tool else None
    return Entropies(around.is_entropy, start, [_of_tool(around, tool, seed) for tool in tools], around)


def _of_tool(around: EntropyAround, tool: str, seed: int) -> ToolEntropies:
    of_prompts = [of_prompt.get(tool, {}) for of_prompt in around.by_prompt]
    before, after = (
        np.array([_mean([value for at, value in one.items() if (at < 0) == is_before]) for one in of_prompts])
        for is_before in (True, False)
    )
    columns = {"before": before, "after": after, "change": after - before}
    positions = sorted({at for one in of_prompts for at in one})
    columns |= {str(at): np.array([one.get(at, np.nan) for one in of_prompts]) for at in positions}
    sums = {}
    for name, values in columns.items():
        sums[name] = np.nan_to_num(values)
        sums[f"has {name}"] = np.isfinite(values).astype(float)
    resampled = Resampled(sums, seed)

    def mean(name: str) -> Interval | None:
        if sums[f"has {name}"].sum() < FEWEST_PROMPTS:
            return None
        return resampled.interval(lambda means: means[name] / means[f"has {name}"])

    by_position = {at: found for at in positions if (found := mean(str(at))) is not None}
    return ToolEntropies(tool, around.results.get(tool, 0), mean("before"), mean("after"), mean("change"), by_position)


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
