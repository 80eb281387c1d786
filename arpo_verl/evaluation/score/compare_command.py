"""Compare two runs on the same prompts: B - A with a paired bootstrap over prompts.

Each prompt's samples are averaged first. The interval holds 95 % of the resampled differences, and p is twice the
smaller share of resamples on either side of 0.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from arpo_tools import dotted_path
from arpo_verl.evaluation.score.comparison import compare, paired
from arpo_verl.evaluation.score.comparison_report import comparison_as_markdown
from arpo_verl.evaluation.score.measures import JUDGE, LABELS, find_measure
from arpo_verl.evaluation.score.scored_file import score_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", type=Path, metavar="A.jsonl", help="the run to compare with")
    parser.add_argument("b", type=Path, metavar="B.jsonl", help="the run of interest")
    parser.add_argument(
        "--metric",
        default="accuracy",
        help=f"accuracy (of each data source its own; the default), {', '.join(LABELS)}, score (the training's "
        f"reward), a part of it, or the dotted path of a function of your own",
    )
    parser.add_argument("--common", action="store_true", help="leave out prompts that only one of the runs has")
    parser.add_argument("--judge", metavar="MODEL", help="whose verdicts count, where several models have judged")
    parser.add_argument("--resamples", type=int, default=10_000, help="of the bootstrap (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the comparison and return the exit code."""
    try:
        if arguments.resamples < 1000:
            raise ValueError(f"--resamples {arguments.resamples}; expected at least 1000 for an interval of 95 %")
        is_measure = arguments.metric in LABELS or dotted_path.is_dotted(arguments.metric)
        measure = find_measure(arguments.metric) if is_measure else None
        a, b = (score_file(path, arguments.judge, measure) for path in (arguments.a, arguments.b))
        pairs = paired(a.run.prompts, b.run.prompts, arguments.common)
        differences = compare(pairs, arguments.metric, arguments.resamples, arguments.seed)
        if a.judge != b.judge and any(one.measure == JUDGE for one in differences):
            raise ValueError(f"A was judged by {a.judge}, B by {b.judge}: judge both by one, or name another --metric")
        if arguments.json is not None:
            report = {
                "a": str(arguments.a),
                "b": str(arguments.b),
                "metric": arguments.metric,
                "resamples": arguments.resamples,
                "seed": arguments.seed,
                "rows": [asdict(one) for one in differences],
            }
            arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(comparison_as_markdown((arguments.a, a.run), (arguments.b, b.run), pairs, differences), end="")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
