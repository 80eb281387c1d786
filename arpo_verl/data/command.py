"""Public datasets as verl parquet, and checks of any verl parquet.

  arpo-verl data list
  arpo-verl data convert gsm8k --out gsm8k.parquet                          # from the Hugging Face Hub
  arpo-verl data convert gsm8k --from test.jsonl --out gsm8k.parquet        # from a file
  arpo-verl data validate train.parquet gsm8k.parquet --tools python,search
  arpo-verl data traces traces.jsonl --out traces.parquet                   # for a cold start
  arpo-verl data sample gsm8k.parquet

Rows are counted from 1. Exit code: 0 success, warnings included; 1 something is wrong with the data; 2 usage.
"""

import argparse
import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from arpo_verl.data import traces_command
from arpo_verl.data.catalog import DATASETS, find_dataset
from arpo_verl.data.convert import ConversionOptions, convert
from arpo_verl.data.parquet_output import RowCounts
from arpo_verl.data.prompts import system_prompt
from arpo_verl.data.report import ValidationReport
from arpo_verl.data.source import open_source
from arpo_verl.data.validate import ValidationLimits, prompt_token_counter, validate

_WIDTH_OF_A_FILE = 200
_SHOWN_REASONS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands and their options."""
    commands = parser.add_subparsers(dest="data_command", metavar="COMMAND", required=True)
    commands.add_parser("list", help="the known datasets").set_defaults(action=_list)
    _add_convert(commands.add_parser("convert", help="write a dataset as verl parquet"))
    _add_validate(commands.add_parser("validate", help="check verl parquet files"))
    traces = commands.add_parser(
        "traces",
        help="write traces of tool use as parquet for a cold start",
        description=traces_command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    traces_command.add_arguments(traces)
    traces.set_defaults(action=traces_command.run)
    sample = commands.add_parser("sample", help="print some rows of a parquet")
    sample.add_argument("file", type=Path)
    sample.add_argument("--rows", type=_positive, default=1, help="how many (default: %(default)s)")
    sample.add_argument("--seed", type=int, default=0, help="which ones (default: %(default)s)")
    sample.set_defaults(action=_sample)


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "dataset",
        type=find_dataset,
        metavar="NAME",
        help="a name that `arpo-verl data list` shows, or the dotted path of a Dataset of your own",
    )
    parser.add_argument(
        "--from",
        dest="source",
        metavar="FILE_OR_HUB_ID",
        help="a .parquet, .jsonl, .json or .csv file, OWNER/DATASET or OWNER/DATASET:CONFIG (default: the dataset's)",
    )
    parser.add_argument(
        "--split", help="of the Hub's dataset, and the label of rows without one (default: the dataset's)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.parquet")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if there is one")
    parser.add_argument(
        "--system-prompt",
        default="auto",
        metavar="auto|tags|none|FILE",
        help="auto: a row's own, else one that teaches the tags; tags: the latter for every row; none: no system "
        "message; FILE: a text, or a parquet whose first row has it, such as the training data (default: %(default)s)",
    )
    parser.add_argument(
        "--tools",
        type=_comma_separated,
        default="python,search",
        help="that the prompt teaches: some of python, search, browse, or none (default: %(default)s)",
    )
    parser.add_argument(
        "--ability", choices=("math", "qa"), help="of every row (default: the dataset's, or what each row says)"
    )
    parser.add_argument("--limit", type=_positive, metavar="N", help="write the first N rows only")
    parser.add_argument("--skip-bad-rows", action="store_true", help="leave bad rows out, and say which and how many")
    parser.set_defaults(action=_convert)


def _add_validate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.parquet")
    parser.add_argument("--tokenizer", metavar="FOLDER", help="a model's folder: measure prompts in its tokens")
    parser.add_argument("--max-prompt-tokens", type=_positive, metavar="N", help="verl's data.max_prompt_length")
    parser.add_argument(
        "--tools", type=_comma_separated, help="warn where a prompt does not show the tags of these, or of the answer"
    )
    parser.set_defaults(action=_validate)


def run(arguments: argparse.Namespace) -> int:
    """Run the subcommand and return the exit code."""
    try:
        return int(arguments.action(arguments))
    except (ValueError, OSError, pa.ArrowException) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


_positive.__name__ = "positive number"  # argparse names it in its message


def _comma_separated(text: str) -> list[str]:
    return [] if text == "none" else [word.strip() for word in text.split(",") if word.strip()]


def _list(_: argparse.Namespace) -> int:
    columns = ("name", "what", "Hub id", "split", "rows", "ability", "licence")
    table = Table(*columns)
    for dataset in DATASETS.values():
        hub_id = ":".join(part for part in (dataset.hub_id, dataset.hub_config) if part)
        rows = "" if dataset.rows is None else str(dataset.rows)
        ability = dataset.ability or "by row"
        table.add_row(dataset.name, dataset.what, hub_id, dataset.split, rows, ability, dataset.licence)
    _print(table)
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    dataset = arguments.dataset
    if arguments.ability:
        dataset = replace(dataset, ability=arguments.ability)
    name = arguments.source or dataset.hub_id
    if name is None:
        raise ValueError(f"{dataset.name} is on no known page of the Hub: give a file or a Hub id as --from")
    if arguments.out.suffix != ".parquet":
        raise ValueError(
            f"--out {arguments.out}: expected a name that ends in .parquet, by which verl knows the format"
        )
    if arguments.out.exists() and not arguments.overwrite:
        raise ValueError(f"--out {arguments.out} exists: choose another name, or replace it with --overwrite")
    options = ConversionOptions(
        prompt=system_prompt(arguments.system_prompt, arguments.tools),
        split=arguments.split or dataset.split,
        limit=arguments.limit,
        skip_bad_rows=arguments.skip_bad_rows,
    )
    source = open_source(name, options.split, dataset.hub_config if name == dataset.hub_id else None)
    result = convert(source, dataset, arguments.out, options)
    _print_conversion(result, source.label, arguments.out)
    is_whole = arguments.limit is None and options.split == dataset.split
    if is_whole and dataset.rows not in (None, result.read):
        print(f"note: {result.read} rows were read; split {dataset.split} of {dataset.hub_id} has {dataset.rows}")
    return 0


def _print_conversion(result: RowCounts, label: str, out: Path) -> None:
    print(f"{result.read:>7} rows read from {label}")
    print(f"{result.written:>7} written to {out}")
    for reason, count in result.excluded.most_common():
        print(f"{count:>7} excluded: {reason}")
    for reason, count in result.bad.most_common(_SHOWN_REASONS):
        print(f"{count:>7} bad, left out: {reason}")
    others = result.bad.total() - sum(count for _, count in result.bad.most_common(_SHOWN_REASONS))
    if others:
        print(f"{others:>7} bad, left out, for other reasons")
    for line in result.bad_rows:
        print(f"        {line}")


def _validate(arguments: argparse.Namespace) -> int:
    if arguments.max_prompt_tokens and not arguments.tokenizer:
        raise ValueError("--max-prompt-tokens needs --tokenizer: which tokens are counted?")
    limits = ValidationLimits(
        tools=arguments.tools,
        prompt_lengths=prompt_token_counter(arguments.tokenizer) if arguments.tokenizer else None,
        max_prompt_tokens=arguments.max_prompt_tokens,
    )
    report = validate(arguments.files, limits)
    _print_report(report, "tokens" if arguments.tokenizer else "characters")
    return 1 if report.errors else 0


def _print_report(report: ValidationReport, unit: str) -> None:
    table = Table("file", "data source", "ability", "rows", f"longest prompt, {unit}")
    for group, count in report.rows.items():
        longest = report.longest_prompt.get(group, "-")
        table.add_row(group.file, group.data_source, group.ability, str(count), str(longest))
    if report.rows:
        _print(table)
    for line in report.lines():
        print(line, file=sys.stderr if line.startswith("error") else sys.stdout)
    rows = report.rows.total()
    print(f"{rows} rows, {report.errors.total()} errors, {report.warnings.total()} warnings")


def _sample(arguments: argparse.Namespace) -> int:
    table = pq.read_table(arguments.file)
    chosen = random.Random(arguments.seed).sample(range(table.num_rows), min(arguments.rows, table.num_rows))
    for index in sorted(chosen):
        row = table.slice(index, 1).to_pylist()[0]
        print(f"--- {arguments.file}, row {index + 1}")
        prompt = row.pop("prompt", None)
        for message in prompt if isinstance(prompt, list) else [{"role": "no messages", "content": prompt}]:
            print(f"[{message['role']}] {message['content']}")
        print(json.dumps(row, ensure_ascii=False, default=str, indent=2))
    return 0


def _print(table: Table) -> None:
    """Print a table at the terminal's width, or unbroken into a file."""
    Console(width=None if sys.stdout.isatty() else _WIDTH_OF_A_FILE).print(table)
