"""Compute the metrics of an evaluation's file: tables in Markdown, and the same numbers in JSON.

Verdicts are read from RUN.judge.jsonl, where `arpo-verl eval judge` has left some. Samples that are missing count as
wrong.
"""

import argparse
import json
import sys
from pathlib import Path

from arpo_verl.evaluation.measures import LABELS
from arpo_verl.evaluation.own_measures import measure_named
from arpo_verl.evaluation.report import as_json, as_markdown
from arpo_verl.evaluation.scored_file import score_file
from arpo_verl.evaluation.summary import summarize


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_file", type=Path, metavar="RUN.jsonl", help="what `arpo-verl eval run` wrote")
    parser.add_argument("--by", metavar="FIELD", help="also split data sources by a field of the data, such as level")
    parser.add_argument(
        "--measure",
        metavar="NAME",
        help=f"the accuracy of all data sources: {', '.join(LABELS)}, or the dotted path of a function of your own "
        f"(default: each data source its own)",
    )
    parser.add_argument("--judge", metavar="MODEL", help="whose verdicts count, where several models have judged")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the report and return the exit code."""
    try:
        measure = arguments.measure and measure_named(arguments.measure)
        scored = score_file(arguments.run_file, arguments.judge, measure)
        summaries = summarize(scored.run, arguments.by)
        if arguments.json is not None:
            report = as_json(scored.run, summaries, scored.judge)
            arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(as_markdown(scored.run, summaries, scored.judge), end="")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
