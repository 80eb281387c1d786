"""Compare two of verl's validation dumps (`trainer.validation_data_dir`) on the same prompts, with standard errors."""

import json
import math
import statistics
from collections import defaultdict
from pathlib import Path

PARTS = {"reward": "score", "accuracy": "acc"}


def compare(before: Path, after: Path) -> dict[str, dict[str, float]]:
    """Return `before`, `after` and `gain`, each with `reward` and `accuracy`; `gain` with standard errors too.

    The samples of one prompt are not independent, so they are averaged first; the standard error is that of the paired
    differences between prompts.

    Raises:
        ValueError: the two files do not have the same prompts, or fewer than two.
    """
    first, second = _by_prompt(before), _by_prompt(after)
    if first.keys() != second.keys():
        raise ValueError(f"{before} and {after} have different prompts; expected two validations of one run")
    if len(first) < 2:
        raise ValueError(f"{before} has {len(first)} prompts; expected at least 2: one has no standard error")
    result: dict[str, dict[str, float]] = {"before": {}, "after": {}, "gain": {}}
    for name, part in PARTS.items():
        old = [statistics.fmean(row[part] for row in rows) for rows in first.values()]
        new = [statistics.fmean(row[part] for row in rows) for prompt in first for rows in [second[prompt]]]
        gains = [late - early for early, late in zip(old, new, strict=True)]
        result["before"][name] = statistics.fmean(old)
        result["after"][name] = statistics.fmean(new)
        result["gain"][name] = statistics.fmean(gains)
        result["gain"][f"{name}_standard_error"] = statistics.stdev(gains) / math.sqrt(len(gains))
    for moment, rows in (("before", first), ("after", second)):
        result[moment]["prompts"] = len(rows)
        result[moment]["samples"] = sum(len(group) for group in rows.values())
    return result


def _by_prompt(path: Path) -> dict[str, list[dict[str, float]]]:
    rows = defaultdict(list)
    with path.open() as lines:
        for line in lines:
            row = json.loads(line)
            rows[row["input"]].append(row)
    return rows
