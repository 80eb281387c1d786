"""Traces of tool use as verl's SFT parquet, for a cold start (recipes/cold_start.sh).

  arpo-verl data traces traces.jsonl --out traces.parquet
  arpo-verl data traces OWNER/DATASET --out traces.parquet --tokenizer MODEL --max-tokens 4096 --skip-bad-rows

Reads `messages`, `conversations` or alpaca's `instruction`, `input`, `output`. Tool results, in messages of their own
or inside the assistant's text, are left out of the loss. Rows are counted from 1; a trace that the rollout could not
have produced is a bad row.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from arpo_verl.config import ArpoConfig
from arpo_verl.data.prompts import system_prompt_of
from arpo_verl.data.source import open_source
from arpo_verl.data.trace_rows import Message
from arpo_verl.data.trace_tokens import encode_tag_trace
from arpo_verl.data.traces import TraceCounts, TraceOptions, convert_traces
from arpo_verl.rollout.tag_syntax import Tags

_SHOWN_REASONS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("source", metavar="FILE_OR_HUB_ID", help="a .jsonl, .json or .parquet file, or OWNER/DATASET")
    parser.add_argument("--split", default="train", help="of the Hub's dataset (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.parquet")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if there is one")
    parser.add_argument("--skip-bad-rows", action="store_true", help="leave bad rows out, and say which and how many")
    parser.add_argument(
        "--syntax",
        choices=("tags", "native"),
        default="tags",
        help="tags: calls in tags, results inside the text or in messages of role tool; native: the model's own "
        "tool-call format, with `tool_calls` or as text (default: %(default)s)",
    )
    parser.add_argument("--tools", default="python,search", help="whose tags are calls (default: %(default)s)")
    parser.add_argument("--tag-open", default=ArpoConfig.tag_open, help="arpo.tag_open (default: %(default)s)")
    parser.add_argument("--tag-close", default=ArpoConfig.tag_close, help="arpo.tag_close (default: %(default)s)")
    parser.add_argument(
        "--result-template", default=ArpoConfig.result_template, help="arpo.result_template (default: %(default)r)"
    )
    parser.add_argument(
        "--system-prompt",
        type=Path,
        metavar="FILE",
        help="in place of each trace's own: a text, or a parquet whose first row has it, such as the training data",
    )
    parser.add_argument(
        "--instruction",
        choices=("system", "user"),
        default="system",
        help="what alpaca's `instruction` is where there is an `input` too: the system prompt, as in the Tool-Star "
        "traces, or the beginning of the question, as elsewhere (default: %(default)s)",
    )
    parser.add_argument("--tokenizer", metavar="MODEL", help="a model's folder or name, to measure traces with")
    parser.add_argument("--max-tokens", type=int, help="longer traces are bad rows (the trainer's data.max_length)")


def run(arguments: argparse.Namespace) -> int:
    """Convert, print the counts of the rows and return the exit code."""
    try:
        result = convert_traces(*_prepare(arguments), skip_bad_rows=arguments.skip_bad_rows)
    except (ValueError, OSError, pa.ArrowException) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    _print(result, arguments)
    return 0


def _prepare(arguments: argparse.Namespace) -> tuple[Any, Path, TraceOptions]:
    if arguments.out.suffix != ".parquet":
        raise ValueError(f"--out {arguments.out}: expected a name that ends in .parquet")
    if arguments.out.exists() and not arguments.overwrite:
        raise ValueError(f"--out {arguments.out} exists: choose another name, or replace it with --overwrite")
    if (arguments.max_tokens is None) != (arguments.tokenizer is None):
        raise ValueError("--max-tokens and --tokenizer go together: expected both or none of them")
    # Checked as a training's own.
    ArpoConfig(tag_open=arguments.tag_open, tag_close=arguments.tag_close, result_template=arguments.result_template)
    names = [name.strip() for name in arguments.tools.split(",") if name.strip()]
    tags = Tags(names, arguments.tag_open, arguments.tag_close, arguments.result_template)
    options = TraceOptions(
        syntax=arguments.syntax,
        tags=tags,
        system_prompt=None if arguments.system_prompt is None else system_prompt_of(arguments.system_prompt),
        joins_instruction=arguments.instruction == "user",
        count_tokens=trace_token_counter(arguments.tokenizer, arguments.syntax, tags) if arguments.tokenizer else None,
        max_tokens=arguments.max_tokens,
    )
    return open_source(arguments.source, arguments.split, None), arguments.out, options


def trace_token_counter(model: str, syntax: str, tags: Tags) -> Callable[[list[Message], Any], int]:
    """Return a function that counts the tokens of a trace.

    Raises:
        OSError: there is no such tokenizer.
        ValueError: it has no chat template.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    if tokenizer.chat_template is None:
        raise ValueError(f"--tokenizer {model} has no chat template; expected that of the model to train")

    def count(messages: list[Message], tools: Any) -> int:
        if syntax == "tags":
            return len(encode_tag_trace(messages, tokenizer, tags)[0])
        return len(tokenizer.apply_chat_template(messages, tools=tools, tokenize=True, return_dict=False))

    return count


def _print(result: TraceCounts, arguments: argparse.Namespace) -> None:
    print(f"{result.read:>7} rows read from {arguments.source}")
    print(f"{result.written:>7} written to {arguments.out}")
    for tool, count in result.calls.most_common():
        print(f"{count:>7} calls of {tool}, their results left out of the loss")
    print(f"{result.without_calls:>7} traces without a call")
    reasons = result.bad.most_common(_SHOWN_REASONS)
    for reason, count in reasons:
        print(f"{count:>7} bad, left out: {reason}")
    others = result.bad.total() - sum(count for _, count in reasons)
    if others:
        print(f"{others:>7} bad, left out, for other reasons")
    for line in result.bad_rows:
        print(f"        {line}")
