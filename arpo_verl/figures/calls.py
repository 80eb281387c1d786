"""Tool calls of a run: how many a leaf makes, how they end, and how long they take."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from arpo_verl.figures.drawing import colour
from arpo_verl.record import RecordedStep

SIZE = (11.0, 3.6)


@dataclass
class CallsOfRun:
    """Executed calls; one that leaves share counts once, but in `per_leaf`, where it is part of each."""

    per_leaf: dict[str, dict[int, float]] = field(default_factory=dict)
    """Calls of a leaf by tool and step, means over leaves."""
    statuses: dict[str, Counter[str]] = field(default_factory=dict)
    """The number of calls by tool and status."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """How long calls took, in order, by tool; without those that a cache has answered."""


def calls_of(steps: Iterable[RecordedStep]) -> CallsOfRun:
    """Return the calls of a run.

    Raises:
        ValueError: there are none.
    """
    found = CallsOfRun()
    sums: dict[int, tuple[Counter[str], int]] = {}
    for step in steps:
        rows = list(step.rows())
        sums[step.step] = Counter(call.tool for prompt, leaf in rows for call in prompt.calls_of(leaf)), len(rows)
        for prompt in step.prompts:
            for call in (call for segment in prompt.segments for call in segment.calls):
                found.statuses.setdefault(call.tool, Counter())[call.status] += 1
                if not call.is_cached:
                    found.seconds.setdefault(call.tool, []).append(call.seconds)
    if not found.statuses:
        raise ValueError("no tool was called; expected the record of a run whose leaves have called one")
    for each in found.seconds.values():
        each.sort()
    for tool in sorted(found.statuses):
        found.per_leaf[tool] = {step: counts[tool] / leaves for step, (counts, leaves) in sums.items() if leaves}
    return found


def draw(figure: Figure, calls: CallsOfRun) -> None:
    """Draw calls of a leaf by step, shares of statuses, and the distribution of seconds."""
    per_leaf, statuses, seconds = figure.subplots(1, 3)
    shades = {tool: colour(place) for place, tool in enumerate(calls.per_leaf)}
    for tool, by_step in calls.per_leaf.items():
        per_leaf.plot(list(by_step), list(by_step.values()), ".-", color=shades[tool], label=tool)
        each = calls.seconds.get(tool, [])
        if each:
            shares = [(place + 1) / len(each) for place in range(len(each))]
            # A logarithmic axis has no 0; nobody waits for what is shorter.
            seconds.step([max(one, 1e-4) for one in each], shares, color=shades[tool], where="post", label=tool)
    _draw_statuses(statuses, calls, list(shades))
    per_leaf.set(xlabel="training step", ylabel="calls of a leaf")
    per_leaf.xaxis.set_major_locator(MaxNLocator(integer=True))
    per_leaf.set_ylim(bottom=0)
    seconds.set(xlabel="seconds of a call", ylabel="share that took no longer", xscale="log")
    per_leaf.legend(frameon=False)


def _draw_statuses(axes: Axes, calls: CallsOfRun, tools: Sequence[str]) -> None:
    totals = {tool: calls.statuses[tool].total() for tool in tools}
    found = {status for counts in calls.statuses.values() for status in counts}
    before = [0.0] * len(tools)
    for place, status in enumerate(sorted(found, key=lambda one: (one != "ok", one))):
        shares = [calls.statuses[tool][status] / totals[tool] for tool in tools]
        labels = [f"{tool} ({totals[tool]})" for tool in tools]
        axes.barh(labels, shares, left=before, color=colour(place), label=status)
        before = [one + share for one, share in zip(before, shares, strict=True)]
    axes.set(xlabel="share of executed calls", xlim=(0, 1))
    # Below, as the bars leave no room inside.
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3, fontsize=7)
