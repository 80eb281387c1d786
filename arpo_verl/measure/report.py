"""A measurement as a table in plain words, and as JSON."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from arpo_verl.measure.bootstrap import Interval
from arpo_verl.measure.designs import Design, PresetCost
from arpo_verl.measure.law import GROUP, SHRUNK, SIBLINGS
from arpo_verl.measure.measurement import TOKENS, ForkDepth, Measurement
from arpo_verl.measure.recommendation import Recommendation, ordinal

UNITS = {"tokens": "sampled tokens", "calls": "tool calls", "seconds": "seconds"}
BASELINES = {GROUP: "all leaves", SIBLINGS: "siblings", SHRUNK: "best mix"}
NOT_KNOWN = "not known"


def print_report(measurement: Measurement, recommendation: Recommendation, console: Console) -> None:
    """Print what was measured, what trees are predicted to cost, and the recommendation.

    Args:
        measurement: with its intervals.
        recommendation: from it.
        console: where to.
    """
    console.print(
        f"{measurement.prompts} prompts with up to {measurement.leaves} leaves, {measurement.forks} forks. In "
        f"brackets: 95 % intervals, by bootstrap over prompts.\n"
    )
    console.print(_measured(measurement))
    console.print()
    console.print(_predicted(measurement))
    for note in measurement.notes:
        console.print(f"Not known: {note}.")
    console.print()
    console.print(Text(recommendation.text, style="bold"))
    if recommendation.settings:
        console.print(Text("  " + " ".join(recommendation.settings)))


def _measured(measurement: Measurement) -> Table:
    table = Table("what", "measured", "how to read it", box=None, pad_edge=False)
    table.add_row("variance of a prompt's rewards", _shown(measurement.reward_variance), "0: nothing to learn")
    for depth in measurement.depths:
        _add_depth(table, depth)
    table.add_row(
        "lift of entropy", _shown(measurement.lift_of_entropy), "above 1: rewards differ more below uncertain forks"
    )
    table.add_row("lift of late forks", _shown(measurement.lift_of_late), "above 1: later forks differ more")
    table.add_row("tokens without siblings", _shown(measurement.silent), "an advantage between siblings gives them 0")
    if measurement.entropies is not None:
        what = "entropy" if measurement.entropies.is_entropy else "surprisal"
        table.add_row(f"{what} at the start, nats", _shown(measurement.entropies.start), "first 20 tokens")
        for tool in measurement.entropies.tools:
            table.add_row(f"{what} before {tool.tool}", _shown(tool.before), f"{tool.results} results")
            table.add_row(f"{what} after {tool.tool}", _shown(tool.after), f"change {_shown(tool.change)}")
    return table


def _add_depth(table: Table, depth: ForkDepth) -> None:
    table.add_row(
        f"roots with a {ordinal(depth.depth)} result", _shown(depth.reach), "their share; forks come after it"
    )
    table.add_row("  variance between prefixes", _shown(depth.between), "decided before the fork")
    table.add_row("  variance within a prefix", _shown(depth.within), "decided after it")
    table.add_row(
        "  intraclass correlation", _shown(depth.correlation), "times leaves > 1: siblings are the better baseline"
    )
    for unit, ratio in depth.cost_ratio.items():
        table.add_row(f"  cost before / after, {UNITS[unit]}", _shown(ratio), "high: forks save much")
    table.add_row(
        "  best leaves of a root, K*",
        _shown(depth.optimal_leaves),
        "of the baseline of all leaves; below 2: do not fork",
    )
    table.add_row("  K* of rewards alone", _shown(depth.optimal_leaves_of_rewards), "as tree/optimal_forks")


def _predicted(measurement: Measurement) -> Table:
    units = [unit for unit in UNITS if any(unit in design.costs for design in measurement.designs)]
    table = Table(
        Column("cost for GRPO's variance", min_width=19),
        "roots x leaves",
        "result",
        "baseline",
        *(Column(UNITS[unit], no_wrap=True) for unit in units),
        box=None,
        pad_edge=False,
    )
    table.add_row("grpo", f"{measurement.leaves} x 1", "-", BASELINES[GROUP], *("1" for _ in units))
    shown = [preset.design for preset in measurement.presets]
    for preset in measurement.presets:
        _add_design(table, ", ".join(preset.names), preset.design, measurement.leaves, units)
    for depth in measurement.depths:
        for baseline in BASELINES:
            found = [
                one
                for one in measurement.designs
                if one.depth == depth.depth and one.baseline == baseline and TOKENS in one.costs
            ]
            if found:
                best = min(found, key=lambda one: one.costs[TOKENS].value)
                if best not in shown:
                    _add_design(table, "no preset; best K", best, measurement.leaves, units)
    return table


def _add_design(table: Table, name: str, design: Design, leaves: int, units: list[str]) -> None:
    table.add_row(
        name,
        f"{max(1, leaves // design.leaves)} x {design.leaves}",
        str(design.depth),
        BASELINES[design.baseline],
        *(_shown(design.costs.get(unit)) for unit in units),
    )


def _shown(number: Interval | None) -> str:
    if number is not None and number.high >= 100:
        return f"{number.value:.0f} [{number.low:.0f}, {number.high:.0f}]"
    return NOT_KNOWN if number is None else f"{number.value:.2f} [{number.low:.2f}, {number.high:.2f}]"


def as_json(measurement: Measurement, recommendation: Recommendation) -> dict[str, Any]:
    """Return all that was measured as plain values; a number is always an object of value, low and high.

    Args:
        measurement: with its intervals.
        recommendation: from it.
    """
    entropies = measurement.entropies
    found = {
        name: value
        for name, value in vars(measurement).items()
        if name not in ("depths", "designs", "presets", "best", "entropies")
    }
    return {
        "recommendation": {
            "verdict": recommendation.verdict.value,
            "text": recommendation.text,
            "settings": list(recommendation.settings),
        },
        **{name: asdict(value) if isinstance(value, Interval) else value for name, value in found.items()},
        "depths": [asdict(depth) for depth in measurement.depths],
        "designs": [_design(design) for design in measurement.designs],
        "presets": [_preset(preset) for preset in measurement.presets],
        "best": None if measurement.best is None else _design(measurement.best),
        "entropies": None
        if entropies is None
        else {
            "is_entropy": entropies.is_entropy,
            "start": None if entropies.start is None else asdict(entropies.start),
            "tools": [asdict(tool) for tool in entropies.tools],
        },
    }


def _design(design: Design) -> dict[str, Any]:
    return asdict(design)


def _preset(preset: PresetCost) -> dict[str, Any]:
    return {"names": list(preset.names), **_design(preset.design)}


def write_json(measurement: Measurement, recommendation: Recommendation, path: Path) -> None:
    """Write `as_json` to a file, at once.

    Args:
        measurement: with its intervals.
        recommendation: from it.
        path: of the file.

    Raises:
        OSError: it can't be written.
    """
    draft = path.with_name(f"{path.name}.draft")
    draft.write_text(json.dumps(as_json(measurement, recommendation), indent=1), encoding="utf-8")
    os.replace(draft, path)
