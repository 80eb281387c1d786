"""Compute the metrics of an evaluation's file: tables in Markdown, and the same numbers in JSON.

Verdicts are read from RUN.judge.jsonl, where `arpo-verl eval judge` has left some. Samples that are missing count as
wrong.

Answers that another program generated are scored with --data, the benchmark in verl's columns:

  arpo-verl eval score answers.jsonl --data gsm8k.parquet

One JSON object a line, with `id` (extra_info.id of the benchmark) or `question`, and `answer` (the final answer alone)
or `output` (the whole response); `sample` numbers several answers of a prompt from 0.
"""

import argparse
import json
import sys
from pathlib import Path

from arpo_verl.evaluation.records import Run, write_run
from arpo_verl.evaluation.score.external_answers import missing_prompts, read_external_answers
from arpo_verl.evaluation.score.measures import LABELS, find_measure
from arpo_verl.evaluation.score.report import report_as_json, report_as_markdown
from arpo_verl.evaluation.score.scored_file import score_file
from arpo_verl.evaluation.score.summary import summarize

_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_file", type=Path, metavar="RUN.jsonl", help="what `arpo-verl eval run` wrote, or answers")
    parser.add_argument("--data", type=Path, action="append", metavar="FILE", help="the benchmark that another "
        "program has answered, as `arpo-verl data convert` writes it; may be given again")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="RUN.jsonl", help="with --data: also write the answers as a run's "
        "file, which `eval judge` and `eval compare` read")  # fmt: skip
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
        measure = arguments.measure and find_measure(arguments.measure)
        other = _external_answers(arguments)
        scored = score_file(arguments.run_file, arguments.judge, measure, other)
        summaries = summarize(scored.run, arguments.by)
        if arguments.json is not None:
            report = report_as_json(scored.run, summaries, scored.judge)
            arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(report_as_markdown(scored.run, summaries, scored.judge), end="")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _external_answers(arguments: argparse.Namespace) -> Run | None:
    """Return the answers of another program, None where the file is a run's; print which prompts have no answer."""
    if not arguments.data:
        if arguments.out is not None:
            raise ValueError("--out needs --data: a run's file is one already; leave it out, or name the benchmark")
        return None
    if arguments.out is not None and arguments.out.exists():
        raise ValueError(f"--out {arguments.out} exists: choose another name")
    run = read_external_answers(arguments.run_file, arguments.data)
    if missing := missing_prompts(run):
        more = ", ..." if len(missing) > _SHOWN else ""
        print(
            f"note: {arguments.run_file} has no answer to {len(missing)} of {run.header.prompts} prompts, which count "
            f"as wrong: {', '.join(missing[:_SHOWN])}{more}",
            file=sys.stderr,
        )
    if arguments.out is not None:
        write_run(arguments.out, run)
    return run
