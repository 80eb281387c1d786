"""The report of a comparison in GitHub's Markdown."""

from collections.abc import Sequence
from pathlib import Path

from arpo_verl.evaluation.score.comparison import Difference
from arpo_verl.evaluation.score.markdown import number, percent, table
from arpo_verl.evaluation.score.measures import LABELS
from arpo_verl.evaluation.score.metrics import Estimate
from arpo_verl.evaluation.score.scoring import ScoredPrompt, ScoredRun
from arpo_verl.evaluation.score.summary import ACCURACY

_FEW_PROMPTS = 20
"""The number of prompts below which resamples show too little of the spread: by the factor √((P - 1) / P), and more
where values are few."""


def comparison_as_markdown(
    a: tuple[Path, ScoredRun],
    b: tuple[Path, ScoredRun],
    pairs: Sequence[tuple[ScoredPrompt, ScoredPrompt]],
    differences: Sequence[Difference],
) -> str:
    """Return the comparison; `a` and `b` are the runs and where they lie, `pairs` what was compared of them."""
    lines = [
        f"{name}: {path.name}, {run.header.model}, {run.header.n} samples a prompt"
        for name, (path, run) in (("A", a), ("B", b))
    ]
    head = ["data source", "measure", "prompts", f"A avg@{a[1].header.n}", f"B avg@{b[1].header.n}"]
    rows = [_row(one) for one in differences]
    notes = ["± is one standard error over prompts, that of B - A from the pairs."]
    if any(one.a.prompts < _FEW_PROMPTS for one in differences):
        notes.append(f"With fewer than {_FEW_PROMPTS} prompts the interval is too narrow and p too small.")
    for index, (name, (_, run)) in enumerate((("A", a), ("B", b))):
        if missing := sum(pair[index].missing for pair in pairs):
            notes.append(f"{name}: {missing} samples of these prompts have no response and count as wrong.")
        if left := len(run.prompts) + run.prompts_not_begun - len(pairs):
            notes.append(f"{name}: {left} more prompts are not compared, {run.prompts_not_begun} of them not begun.")
    parts = [
        "\n".join(f"* {line}" for line in lines),
        table([*head, "B - A", "95 % interval", "p"], rows, text_columns=2),
        "\n".join(f"* {note}" for note in notes),
    ]
    return "\n\n".join(parts) + "\n"


def _row(one: Difference) -> list[str]:
    is_share = one.measure in LABELS or one.measure == ACCURACY
    factor, digits = (100, 1) if is_share else (1, 3)

    def shown(estimate: Estimate) -> str:
        return percent(estimate) if is_share else number(estimate, digits)

    interval, p = "-", "-"
    if one.interval is not None:
        interval = f"{factor * one.interval.low:.{digits}f} to {factor * one.interval.high:.{digits}f}"
        p = f"{one.interval.p:.4f}"
    cells = [shown(one.a), shown(one.b), shown(one.difference), interval, p]
    return [one.label, LABELS.get(one.measure, one.measure), str(one.a.prompts), *cells]
